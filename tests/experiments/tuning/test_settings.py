"""The table `[tune]`: which experiments share a study, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.cli.main import app
from experiments.settings.sweep import expand
from experiments.tuning.grid import grid, number_of_trials
from experiments.tuning.settings import Range, expand_tuned
from fedsam.config import ConfigError
from fedsam.overrides import override

LR, RHO = "client.optimizer.lr", "client.optimizer.rho"
SETTINGS: dict[str, Any] = {
    "rounds": 6,
    "data": {"dataset": "digits", "validation": 0.2},
    "sweep": {"client.optimizer.name": ["sgd", "sam", "asam"], "data.clients": [5, 10], "seeds": [0, 1]},
    "tune": {
        "trials": 4,
        "rounds": 3,
        "space": {LR: {"low": 0.01, "high": 0.5, "log": True}, RHO: {"low": 0.01, "high": 0.5, "log": True}},
        "overrides": [{"when": {"client.optimizer.name": "asam"}, "space": {RHO: [0.5, 1.0, 2.0]}}],
    },
}


def test_each_method_and_client_count_is_a_study_of_the_keys_that_it_has() -> None:
    experiments, studies = expand_tuned(SETTINGS)
    assert len(experiments) == 12
    assert [(study.members, list(study.space)) for study in studies] == [
        ((0, 1), [LR]),
        ((2, 3), [LR]),
        *(((place, place + 1), [LR, RHO]) for place in (4, 6, 8, 10)),
    ]
    assert studies[2].space[RHO] == Range(low=0.01, high=0.5, log=True) and studies[4].space[RHO] == (0.5, 1.0, 2.0)
    trial = studies[4].trial({LR: 0.3, RHO: 1.0}, 7)
    assert (trial.seed, trial.rounds, trial.client.optimizer.settings) == (7, 3, {"lr": 0.3, "rho": 1.0})
    assert not trial.measure.test and not trial.measure.union


def test_lines_that_agree_where_they_are_tuned_share_a_study() -> None:
    _, studies = expand_tuned(override(SETTINGS, {"tune.at": {"data": {"clients": 5}}}))
    assert [study.members for study in studies] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    assert {study.base.data.clients for study in studies} == {5}


def test_a_key_of_the_command_line_is_tuned_no_more() -> None:
    _, studies = expand_tuned(override(SETTINGS, {LR: 0.1, "tune.trials": 9}), [LR, "tune.trials"])
    assert [(study.members[0], tuple(study.space)) for study in studies] == [(place, (RHO,)) for place in (4, 6, 8, 10)]  # SGD has no other
    assert {study.tuning.trials for study in studies} == {9}


def test_printed_settings_have_the_same_studies(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        '[sweep]\n"client.optimizer.name" = ["sgd", "sam"]\n[data]\ndataset = "digits"\nvalidation = 0.2\n'
        '[tune]\ntrials = 3\n[tune.space]\nclient.optimizer.lr = { low = 0.1, high = 0.5 }\n"client.optimizer.rho" = [0.1, 0.2]\n'
    )
    printed = CliRunner().invoke(app, ["run", str(tmp_path / "mine.toml"), "--print-config"], catch_exceptions=False)
    assert "[tune.space.client.optimizer.lr]" in printed.stdout
    (tmp_path / "resolved.toml").write_text(printed.stdout)
    again = CliRunner().invoke(app, ["run", str(tmp_path / "resolved.toml"), "--print-config"], catch_exceptions=False)
    assert again.stdout == printed.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": 3}, "tune: 3 is not allowed: must be a table"),
        ({"tune.trials": 0}, "tune.trials: 0 is not allowed"),
        ({"tune.sampler": "bayes"}, "tune.sampler: 'bayes' is not allowed: input should be 'tpe', 'random' or 'grid'"),
        ({"tune.metric": "test_accuracy"}, "tune.metric: 'test_accuracy' is not allowed"),
        ({"tune.trails": 3}, "tune.trails: unknown key"),
        ({"tune.space": {}}, "tune.space: {} is not allowed: must say what is tried"),
        ({"tune.space": {LR: 0.1}}, f"tune.space.{LR}: 0.1 is not allowed: must be a table with low and high, or a list"),
        ({"tune.space": {LR: []}}, f"tune.space.{LR}: [] is not allowed"),
        ({"tune.space": {LR: {"low": 2, "high": 1}}}, "low must be below high"),
        ({"tune.space": {LR: {"low": 0, "high": 1, "log": True}}}, f"tune.space.{LR}.low: 0 is not allowed: must be above 0"),
        ({"tune.space": {LR: {"low": -1, "high": 1}}}, f"{LR}: -1 is not allowed"),
        ({"tune.space": {"client.optimizer.radius": [1]}}, "is a setting of none of the 12 experiments"),
        ({"tune.space": {"client.optimizer.name": ["sgd"]}}, "a setting in client.*, server.*, model.* that is no name"),
        ({"tune.space": {"data.validation": [0.1]}}, "a setting in client.*, server.*, model.* that is no name"),
        ({"sweep": {LR: [0.1]}, "tune.overrides": []}, f"tune.space.{LR}: is swept as well"),
        ({"tune.overrides": [{"when": {"client.optimizer.name": "msam"}, "space": {LR: [1]}}]}, "fits no point of the sweep"),
        ({"data.validation": 0}, "data.validation: 0 is not allowed with [tune]: trials are compared by examples that are held out"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        expand_tuned(override(SETTINGS, changes))
    assert message in str(error.value)


def test_a_sweep_alone_refuses_to_leave_out_tuning(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tune: is not allowed here: `fedsam compare`"):
        expand(SETTINGS)


def test_a_grid_has_evenly_spread_values_and_no_more_points_than_trials() -> None:
    space = {LR: {"low": 0.01, "high": 1.0, "log": True}, "client.epochs": {"low": 1, "high": 3}, "client.batch_size": [16, 32]}
    gridded = override(SETTINGS, {"tune.sampler": "grid", "tune.trials": 20, "tune.space": space, "tune.overrides": []})
    _, (study, *_) = expand_tuned(gridded)
    points = list(grid(study))
    assert number_of_trials(study) == len(points) == 18
    assert sorted({point[LR] for point in points}) == pytest.approx([0.01, 0.1, 1.0])
    assert {point["client.epochs"] for point in points} == {1, 2, 3} and {point["client.batch_size"] for point in points} == {0, 1}
    _, (study, *_) = expand_tuned(override(gridded, {"tune.trials": 7}))
    with pytest.raises(ConfigError, match=r"tune\.trials: 7 is not allowed with sampler 'grid': 8 is the least"):
        number_of_trials(study)
