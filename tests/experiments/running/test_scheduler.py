"""Comparisons: paired by seed, resumed where they were stopped, the same however many runs go on at once."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients.runtime import ClientRuntime
from experiments.api import compare
from experiments.callbacks.callback import Callback
from experiments.planning import forecast
from experiments.planning.plan import plan, provenance_notes
from experiments.running.grids import DatasetCache, actor_groups
from experiments.running.scheduler import Outcome, perform, run_all
from experiments.settings.catalogue import check, sampler
from experiments.settings.method import Method
from experiments.settings.sweep import expand
from fedsam.config import ConfigError, Experiment
from fedsam.data.federated import FederatedDataset
from fedsam.overrides import override
from fedsam.results.database import connect
from fedsam.results.rows import Row, cumulative
from fedsam.results.store import Results
from tests.support.content import content

SMALL: Mapping[str, Any] = {
    "rounds": 2,
    "model": "lenet5",
    "data": {"dataset": "digits", "clients": 4, "examples": 120},
    "client": {"optimizer": {"lr": 0.05}, "batch_size": 20},
    "server": {"participation": 2},
    "compute": {"grid": "inline"},
    "measure": {"flatness": {"measures": ["average", "line"], "examples": 40, "draws": 2, "points": 3}},
    "sweep": {"client.optimizer.name": ["sgd", "sam"], "seeds": [0, 1]},
}


def sweep(folder: Path, **changes: Any) -> list[Experiment]:
    """Four small runs, in this process."""
    return expand(override(SMALL, {"runs_dir": str(folder)} | {key.replace("__", "."): value for key, value in changes.items()}))


def carry_out(experiments: list[Experiment], callback: Callback | None = None) -> list[Outcome]:
    with actor_groups(experiments, 1) as groups:
        return perform([check(experiment) for experiment in experiments], groups, callback or Callback(), once=True)


FIXED = {"server.sampling": "fixed"}  # where the recipe that a method was published with has another


class Stopper(Callback):
    """Somebody presses Ctrl-C after so many rounds."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def round(self, row: Row) -> None:
        """One round fewer to go."""
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Skipped(Callback):
    """Keeps what was skipped."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def skipped(self, experiment: Experiment, why: str) -> None:
        """Kept."""
        self.said.append(why)


def test_the_same_seed_gives_every_method_the_same_data_cohorts_and_batches(tmp_path: Path) -> None:
    pairs = expand(override(SMALL, {"sweep": {"method": ["fedavg", "fedgamma"]}, "sweep.client.optimizer.name": ["sgd", "esam"]} | FIXED))
    seen = []
    for experiment in pairs:
        dataset = DatasetCache().get(experiment)
        place = ClientRuntime.of(experiment, dataset)
        federation = FederatedDataset.of(experiment, dataset, torch.device("cpu"), torch.float32)
        batches = [next(federation.batches(client, 1, batch_size=20, epochs=1, steps=None)) for client in range(4)]
        cohorts = [sampler(experiment)(round) for round in (1, 2, 3)]
        seen.append((federation.indices, cohorts, batches, place.network.initial))
    for parts, cohorts, batches, initial in seen[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(parts, seen[0][0], strict=True))
        assert cohorts == seen[0][1]
        assert all(torch.equal(x, other) for (x, _), (other, _) in zip(batches, seen[0][2], strict=True))
        assert torch.equal(initial, seen[0][3])
    assert len(seen) == 4


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_what_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path: Path, rounds: int) -> None:
    undisturbed, stopped = sweep(tmp_path / "a"), sweep(tmp_path / "b")
    carry_out(undisturbed)
    with pytest.raises(KeyboardInterrupt):
        carry_out(stopped, Stopper(rounds))
    with Results.open(tmp_path / "b") as results:
        statuses = [run.status for run in results.runs()]
    assert statuses == ["finished"] * ((rounds - 1) // 2) + ["interrupted"]
    outcomes = carry_out(stopped)
    assert [outcome.status for outcome in outcomes] == ["skipped"] * ((rounds - 1) // 2) + ["finished"] * (4 - (rounds - 1) // 2)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    with Results.open(tmp_path / "b") as results:
        assert {path.name for path in (tmp_path / "b").iterdir() if path.is_dir()} == {run.id for run in results.runs()}


def test_two_at_once_give_what_one_after_another_does_and_stop_together(tmp_path: Path, shared_actors: None) -> None:
    carry_out(sweep(tmp_path / "a"))
    experiments, endless = sweep(tmp_path / "b", compute={"actors": 2}), sweep(tmp_path / "c", compute={"actors": 2}, rounds=1000)
    with actor_groups(experiments, 2) as groups:
        outcomes = perform([check(experiment) for experiment in experiments], groups, Callback(), once=True)
        with pytest.raises(KeyboardInterrupt):
            perform([check(experiment) for experiment in endless], groups, Stopper(5), once=True)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert models(tmp_path / "a") == models(tmp_path / "b")
    with Results.open(tmp_path / "c") as results:
        assert [run.status for run in results.runs()] == ["interrupted"] * 2


def models(folder: Path) -> dict[tuple[str, int], bytes]:
    """The files of the final models."""
    with Results.open(folder) as results:
        return {(run.config_hash, run.seed): (folder / run.id / "model.safetensors").read_bytes() for run in results.runs()}


def test_a_failed_run_is_recorded_stops_nothing_and_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiments, train = sweep(tmp_path, sweep={"client.optimizer.name": ["sam", "sgd"]}, rounds=4), ClientRuntime.train

    def fail(runtime: ClientRuntime, *arguments: Any) -> Any:
        if runtime.experiment == experiments[0]:
            raise MemoryError("no memory")
        return train(runtime, *arguments)

    monkeypatch.setattr(ClientRuntime, "train", fail)
    monkeypatch.setattr("experiments.running.grids.try_out", lambda *_: None)
    first, second = carry_out(experiments)
    assert (first.status, second.status) == ("failed", "finished")
    assert "no memory" in str(first.error)
    again, found = carry_out(experiments)
    assert (again.status, found.status, found.run_id) == ("failed", "skipped", second.run_id)
    assert again.run_id == first.run_id
    assert len(content(tmp_path)) == 2


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    (first, *_) = experiments = sweep(tmp_path)
    carry_out([first])
    connection = connect(tmp_path / "fedsam.db")
    connection.execute("UPDATE runs SET status = 'running'")  # this process lives: it might well be at work
    connection.close()
    callback = Skipped()
    (outcome,) = carry_out(experiments[:1], callback)
    assert outcome.status == "skipped"
    assert [said.rpartition(": ")[2] for said in callback.said] == [f"it is at work on {os.uname().nodename}"]


def test_the_plan_knows_what_has_finished_and_who_made_it(tmp_path: Path) -> None:
    experiments = sweep(tmp_path)
    carry_out(experiments[:2])
    with Results.open(tmp_path) as results:
        planned = plan([*experiments, experiments[0]], DatasetCache(), results)
    assert [one.concluded_run is not None for one in planned] == [True, True, False, False]
    assert [one.key for one in planned] == [("sgd", 4)] * 2 + [("sam", 4)] * 2
    assert provenance_notes(planned) == []
    connection = connect(tmp_path / "fedsam.db")
    connection.execute("""UPDATE runs SET git_commit = 'abc', versions = '{"torch": "1.0"}'""")
    connection.close()
    with Results.open(tmp_path) as results:
        notes = provenance_notes(plan(experiments, DatasetCache(), results))
    assert [note.partition(",")[0] for note in notes] == ["some were made by commit abc", "some were made with other versions of torch"]


def test_more_at_once_than_actors_is_refused(tmp_path: Path) -> None:
    experiments = sweep(tmp_path, compute={"grid": "ray", "actors": 2})
    with pytest.raises(ConfigError, match=r"parallel: 3 is not allowed: compute\.actors is 2"), actor_groups(experiments, 3):
        pass


@pytest.mark.parametrize(
    "changes",
    [{"client__epochs": 2}, {"client__steps": 2, "data__partition": "iid"}, {"budget": 500, "rounds": 100}, {"method": "fedgamma"}],
)
def test_a_forecast_is_what_the_run_takes(tmp_path: Path, changes: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "PROBE_SECONDS", 0.01)
    for experiment in sweep(tmp_path, **{"sweep": {"client.optimizer.name": ["sgd", "sam"]}, "server__participation": 4} | changes):
        with actor_groups([experiment], 1) as (group,):
            ahead = forecast.Forecaster(group).forecast(check(experiment))
            (outcome,) = perform([check(experiment)], [group], Callback())
        with Results.open(tmp_path) as results:
            rows = results.rounds(str(outcome.run_id))
        load, total = ahead.workload, cumulative(rows)[-1]
        assert load.rounds == len(rows)
        assert load.gradient_evaluations == pytest.approx(total.gradient_evaluations)
        assert (load.steps, load.bytes) == pytest.approx((total.steps, total.bytes_down + total.bytes_up))
        assert load.cohort == pytest.approx(total.cohort / len(rows))
        assert 0 < ahead.client_seconds < ahead.seconds < math.inf


@pytest.mark.usefixtures("no_figures")
def test_compare_in_python_makes_what_is_missing_and_knows_the_rest(tmp_path: Path) -> None:
    settings = override(SMALL, {"runs_dir": str(tmp_path), "rounds": 1, "measure.flatness.measures": [], "sweep.seeds": [0]})
    first = compare(sweep(tmp_path, rounds=1, measure__flatness__measures=[], sweep__seeds=[0])[:1])
    assert [outcome.status for outcome in first.outcomes] == ["finished"]
    both = compare(settings)
    assert [outcome.status for outcome in both.outcomes] == ["finished", "finished"]
    assert both.run_ids[0] == first.run_ids[0]
    assert compare(settings) == both
    with Results.open(tmp_path) as results:
        assert [run.id for run in results.runs()] == both.run_ids
    page = both.report()
    assert page == tmp_path / "reports" / both.run_ids[0] / "report.html"
    assert page.is_file()


def test_a_run_of_a_comparison_that_diverges_is_an_outcome_and_is_not_made_again(tmp_path: Path) -> None:
    plain = override({key: value for key, value in SMALL.items() if key != "sweep"}, {"runs_dir": str(tmp_path), "rounds": 1})
    each = [override(plain, {"client.optimizer": {"name": "sgd", "lr": lr}}) for lr in (1e30, 0.1)]
    done = compare(each)
    assert [outcome.status for outcome in done.outcomes] == ["diverged", "finished"]
    said = r"client 0 in round 1 \(seed 0\) sent a non-finite delta: its local training diverged; .*; its learning rate was 1e\+30"
    assert re.fullmatch(said, str(done.outcomes[0].error))
    assert compare(each) == done


@pytest.mark.parametrize(
    ("experiments", "said"),
    [
        ([], "runs_dir: no experiment is not allowed"),
        ([{"runs_dir": "a"}, {"runs_dir": "b"}], "runs_dir: a, b is not allowed"),
        ({"sweep": {"data.clients": 5}}, "sweep.data.clients: 5 is not allowed"),
        ([{"rounds": 0}], "rounds: 0 is not allowed"),
    ],
)
def test_compare_in_python_says_what_is_wrong_and_starts_nothing(
    experiments: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        compare(experiments)
    assert not list(tmp_path.iterdir())


def test_each_method_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, of = list[Experiment](), Method.of
    monkeypatch.setattr(Method, "of", lambda experiment: built.append(experiment) or of(experiment))
    experiments = sweep(tmp_path, rounds=1)[:2]
    done = compare(experiments)
    assert [outcome.status for outcome in done.outcomes] == ["finished"] * 2
    assert built == experiments
    run_all(experiments, Callback())
    assert built == experiments * 2
