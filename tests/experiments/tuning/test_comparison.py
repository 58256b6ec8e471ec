"""Tuning and the final runs: the same choices however they are made, and never by the test set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedsam
from experiments.callbacks.callback import Callback
from experiments.cli.main import app
from experiments.running.grids import DatasetCache
from experiments.running.scheduler import Outcome
from experiments.settings.toml import toml
from experiments.tuning.comparison import Comparison
from experiments.tuning.settings import expand_tuned
from fedsam.config import ConfigError, Experiment
from fedsam.data.datasets import Dataset
from fedsam.overrides import override
from fedsam.results.rows import Row
from fedsam.results.store import Results
from fedsam.results.tuning import Study, at_edge
from tests.support.content import content

LR, RHO = "client.optimizer.lr", "client.optimizer.rho"
SETTINGS: Mapping[str, Any] = {
    "rounds": 4,
    "model": {"name": "mlp", "hidden": 8},
    "data": {"dataset": "digits", "clients": 4, "examples": 200, "validation": 0.4},
    "client": {"batch_size": 10, "steps": 3},
    "server": {"participation": 2},
    "measure": {"last": 1, "flatness": {"measures": ["average"], "examples": 20, "draws": 2}},
    "compute": {"grid": "inline"},
    "sweep": {"client.optimizer.name": ["sgd", "sam"], "seeds": [0]},
    "tune": {"trials": 7, "space": {LR: {"low": 0.001, "high": 2.0, "log": True}, RHO: {"low": 0.01, "high": 0.5, "log": True}}},
}


def compare(folder: Path, changes: Mapping[str, Any] | None = None, callback: Callback | None = None, parallel: int = 1) -> Any:
    return fedsam.compare(override(SETTINGS, {**(changes or {}), "runs_dir": str(folder)}), callback or Callback(), parallel=parallel)


def studies(folder: Path) -> list[Study]:
    """The studies by whose choices runs were made, without what differs from one time to the next: the ids of runs."""
    with Results.open(folder, create=False) as results:
        found = results.studies([run.id for run in results.runs()])
    plain = [replace(study, runs=(), trials=tuple(replace(trial, runs=()) for trial in study.trials)) for study in found]
    return sorted(plain, key=lambda study: study.label, reverse=True)  # SGD first, as in the settings


class Stopped(Callback):
    """Stops the process after so many rounds of any runs."""

    def __init__(self, after: int) -> None:
        self.left = after

    def round(self, row: Row) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert [outcome.status for outcome in compare(folder).outcomes] == ["finished"] * 2
    return folder


def test_every_method_has_the_same_number_of_trials_and_the_best_is_chosen(undisturbed: Path) -> None:
    found = studies(undisturbed)
    assert [study.label for study in found] == ["sgd, 4 clients", "sam, 4 clients"]
    for study in found:
        ended = {trial.number: trial.value for trial in study.trials if not trial.pruned}
        assert [trial.number for trial in study.trials] == list(range(1, 8))
        assert study.chosen is not None and study.chosen.value == max(value for value in ended.values() if value is not None)
    with Results.open(undisturbed) as results:
        trials = results.trial_runs()
        final = [run for run in results.runs() if run.id not in trials]
    for run, study in zip(final, found, strict=True):
        assert study.chosen is not None
        assert {
            key: run.config["client"]["optimizer"][key.rpartition(".")[2]] for key in study.chosen.parameters
        } == study.chosen.parameters


def test_trials_that_are_worse_than_the_median_end_early(undisturbed: Path, tmp_path: Path) -> None:
    pruned = [trial.number for study in studies(undisturbed) for trial in study.trials if trial.pruned]
    assert pruned and min(pruned) > 5
    compare(tmp_path, {"tune.pruning": False})
    whole = studies(tmp_path)
    assert not [trial for study in whole for trial in study.trials if trial.pruned]
    for some, every in zip(studies(undisturbed), whole, strict=True):  # what is tried before the first is pruned does not depend on it
        assert some.trials[:5] == every.trials[:5]


@pytest.mark.parametrize("after", [5, 17])
def test_choices_and_runs_are_the_same_where_it_was_interrupted(undisturbed: Path, tmp_path: Path, after: int) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compare(tmp_path, callback=Stopped(after))
    compare(tmp_path)
    assert studies(tmp_path) == studies(undisturbed)
    assert content(tmp_path) == content(undisturbed)


@pytest.mark.parametrize("compute", [{"grid": "ray", "actors": 2}, {"grid": "inline"}], ids=["actors", "processes"])
def test_choices_and_runs_are_the_same_two_at_once(undisturbed: Path, tmp_path: Path, shared_actors: None, compute: dict[str, Any]) -> None:
    compare(tmp_path, {"compute": compute}, parallel=2)
    assert studies(tmp_path) == studies(undisturbed)
    assert content(tmp_path) == content(undisturbed)


def test_rounds_of_tuned_runs_have_the_method_without_what_was_chosen(undisturbed: Path) -> None:
    assert {row["method"] for row in fedsam.rounds(runs_dir=undisturbed)} == {"sgd", "sam"}


def test_nothing_is_chosen_by_the_test_set(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = DatasetCache.get

    def with_other_test_labels(self: DatasetCache, experiment: Experiment) -> Dataset:
        dataset = load(self, experiment)
        return replace(dataset, test=replace(dataset.test, y=dataset.test.y.flip(0)))

    monkeypatch.setattr(DatasetCache, "get", with_other_test_labels)
    compare(tmp_path)
    assert studies(tmp_path) == studies(undisturbed)
    with Results.open(tmp_path) as results:
        trials = results.trial_runs()
        measured = {(run.id in trials): set(results.rounds(run.id)[-1].measures) for run in results.runs()}
    assert "test_accuracy" in measured[False] and "test_accuracy" not in measured[True]
    ours, theirs = (measured_accuracies(folder) for folder in (tmp_path, undisturbed))
    assert ours != theirs  # the labels are really others


def measured_accuracies(folder: Path) -> list[float]:
    with Results.open(folder) as results:
        return [value for run in results.runs() for _, value in results.curve(run.id, "test_accuracy")]


def test_a_finished_comparison_makes_nothing_again(undisturbed: Path) -> None:
    before = content(undisturbed)
    told = Stopped(1)
    compare(undisturbed, callback=told)
    assert told.left == 1 and content(undisturbed) == before


def test_more_trials_go_on_from_those_there_are(undisturbed: Path, tmp_path: Path) -> None:
    compare(tmp_path, {"tune.trials": 3})
    with Results.open(tmp_path) as results:
        made = results.trial_runs()
    compare(tmp_path)
    with Results.open(tmp_path) as results:
        (*_, study) = results.studies([run.id for run in results.runs()][-1:])
        assert {trial.runs[0] for trial in study.trials[:3]} <= made
    assert {study.id for study in studies(undisturbed)} <= {study.id for study in studies(tmp_path)}


def test_fewer_trials_are_a_study_of_its_own_of_which_nothing_is_made(tmp_path: Path) -> None:
    for trials in (2, 1):
        compare(tmp_path, {"tune.trials": trials})
    assert sorted(len(study.trials) for study in studies(tmp_path)) == [1, 1, 2, 2]


def test_a_trial_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    compare(tmp_path, {"tune.seeds": [5, 6], "tune.trials": 2, "tune.metric": "validation_loss"})
    with Results.open(tmp_path) as results:
        for study in results.studies([run.id for run in results.runs()]):
            for trial in study.trials:
                values = [results.curve(run, "validation_loss")[-1][1] for run in trial.runs]
                assert len(values) == 2 and trial.value == pytest.approx(sum(values) / 2)


@pytest.mark.parametrize("metric", ["validation_accuracy", "validation_loss"])
def test_where_every_trial_diverges_the_method_fails_and_the_others_do_not(tmp_path: Path, metric: str) -> None:
    wild = {"when": {"client.optimizer.name": "sam"}, "space": {LR: {"low": 1e20, "high": 1e25, "log": True}}}
    found = compare(tmp_path, {"tune.trials": 2, "tune.metric": metric, "tune.overrides": [wild]})
    assert [outcome.status for outcome in found.outcomes] == ["finished", "failed"]
    why = "tuning of sam, 4 clients failed: all 2 trials diverged; lower the values in tune.space"
    assert found.outcomes[1].error == why
    again = compare(tmp_path, {"tune.trials": 2, "tune.metric": metric, "tune.overrides": [wild]})
    assert again.outcomes[1].error == why


def test_a_study_whose_run_fails_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.tuning import comparison

    carry_out = comparison.carry_out

    def failing(checked: Any, *arguments: Any, **options: Any) -> Outcome:
        if checked.experiment.client.optimizer.name == "sam":
            return Outcome(None, "failed", "no memory")
        return carry_out(checked, *arguments, **options)

    monkeypatch.setattr(comparison, "carry_out", failing)
    found = compare(tmp_path, {"tune.trials": 2})
    assert [(outcome.status, outcome.error) for outcome in found.outcomes] == [
        ("finished", None),
        ("failed", "tuning of sam, 4 clients failed: trial 1 of sam, 4 clients: no memory"),
    ]


def test_a_grid_has_one_trial_for_each_point(tmp_path: Path) -> None:
    space = {LR: [0.01, 0.1, 0.3], RHO: {"low": 0.1, "high": 0.4, "log": True}}
    compare(tmp_path, {"tune": {"trials": 6, "sampler": "grid", "space": space}})
    sgd, sam = studies(tmp_path)
    assert [trial.parameters for trial in sgd.trials] == [{LR: 0.01}, {LR: 0.1}, {LR: 0.3}]
    assert [trial.parameters for trial in sam.trials] == [{LR: lr, RHO: rho} for lr in (0.01, 0.1, 0.3) for rho in (0.1, 0.4)]


def test_the_command_shows_both_costs_tunes_and_names_what_was_chosen(tmp_path: Path, no_figures: None) -> None:
    file, runs = tmp_path / "mine.toml", str(tmp_path / "runs")
    settings = override(SETTINGS, {"tune.trials": 2, "tune.space": {LR: [0.05, 0.1, 0.2]}})
    file.write_text(toml(settings))
    command = ["compare", str(file), "--runs-dir", runs]
    plan = CliRunner().invoke(app, [*command, "--dry-run"], catch_exceptions=False).stdout
    assert "tuning: 2 studies of 2 trials; at most 4 runs, about " in plan and "2 runs, 0 of them finished before" in plan
    assert not (tmp_path / "runs").exists()
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0 and "at the end" in done.stdout
    assert "4 of 4 made before" in CliRunner().invoke(app, [*command, "--dry-run"], catch_exceptions=False).stdout
    listed = CliRunner().invoke(app, ["runs", "--runs-dir", runs], catch_exceptions=False).stdout
    assert "4 trials of tuning left out; --trials lists them" in listed and listed.count("digits") == 2
    assert CliRunner().invoke(app, ["runs", "--runs-dir", runs, "--trials"], catch_exceptions=False).stdout.count("digits") == 6
    report = CliRunner().invoke(app, ["report", "--runs-dir", runs], catch_exceptions=False)
    assert report.exit_code == 0 and "Number of seeds: 1" in report.stdout
    assert isinstance(CliRunner().invoke(app, ["run", str(file)]).exception, ConfigError)


def test_progress_names_trials(tmp_path: Path) -> None:
    titles = []

    class Titles(Callback):
        def trial(self, experiment: Experiment, title: str) -> None:
            titles.append(title)

    compare(
        tmp_path,
        {"tune.trials": 2, "sweep.client.optimizer.name": ["sgd"], "tune.space": {LR: [0.1, 0.1001]}},
        Titles(),
    )
    assert titles[0] == "tuning sgd, 4 clients: trial 1/2"
    assert len(titles) < 3 and all(", best " in title for title in titles[1:])


def test_what_is_left_is_counted_before_anything_starts(tmp_path: Path) -> None:
    experiments, plans = expand_tuned(override(SETTINGS, {"tune.seeds": [1, 2], "runs_dir": str(tmp_path)}))
    comparison = Comparison(experiments, plans, DatasetCache())
    assert len(comparison.trials_left) == 28 and not comparison.failures()
    assert [study.choice for study in comparison.studies] == [None, None]


def test_studies_are_called_by_method_clients_and_data(tmp_path: Path) -> None:
    changes = {
        "sweep": {"data.partition.alpha": [1.0, 0.1], "data.clients": [2, 4]},
        "tune.at": {"data.clients": 3},
        "runs_dir": str(tmp_path),
    }
    experiments, plans = expand_tuned(override(SETTINGS, changes | {"tune.space": {LR: [0.1, 0.2]}}))
    labels = [study.study.label for study in Comparison(experiments, plans, DatasetCache()).studies]
    assert labels == ["sgd, 3 clients, dirichlet(alpha=1.0)", "sgd, 3 clients, dirichlet(alpha=0.1)"]


def test_ends_of_ranges_are_seen() -> None:
    assert at_edge({"low": 0.01, "high": 1.0, "log": True}, 0.011) and not at_edge({"low": 0.01, "high": 1.0, "log": False}, 0.5)
    assert at_edge([1, 2, 3], 3) and not at_edge(["a", "b", "c"], "c") and not at_edge([1, 2], 2)
    assert not at_edge({"low": 0.01, "high": 1.0, "log": True}, math.sqrt(0.01))
