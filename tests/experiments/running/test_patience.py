"""`measure.patience`: a run ends when the accuracy on held-out examples rises no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import run
from experiments.settings.catalogue import check
from fedsam.config import ConfigError, Experiment
from fedsam.results.rows import Row
from fedsam.results.store import Results
from tests.experiments.running.test_evaluation import without_seconds
from tests.experiments.running.test_resume import Told, carry_out, experiment, model, resumed, stopped
from tests.support.content import content

FEW = {"data.validation": 0.2, "measure.every": 1, "client.optimizer.lr": 0.05, "measure.flatness.every": 0}


def patient(folder: Path, **changes: object) -> Experiment:
    return experiment(folder, FEW, **{"rounds": 40, "measure__patience": 3, **changes})


def since_best(rows: tuple[Row, ...], upto: int) -> int:
    """Evaluations after the best one of the first `upto` rounds, the earliest of equals."""
    values = [row.measures["validation_accuracy"] for row in rows[:upto] if "validation_accuracy" in row.measures]
    return len(values) - 1 - values.index(max(values))


@pytest.mark.parametrize("every", [1, 2])
def test_it_ends_the_run_after_so_many_evaluations_that_are_no_better(tmp_path: Path, every: int) -> None:
    result = run(patient(tmp_path / "a", measure__every=every))
    end = len(result.rows)
    assert 3 * every < end < 40
    assert since_best(result.rows, end) == 3
    assert all(since_best(result.rows, upto) < 3 for upto in range(every, end))
    whole = run(patient(tmp_path / "b", measure__every=every, measure__patience=None, rounds=end))
    assert without_seconds(result.rows) == without_seconds(whole.rows)
    assert {"union_loss", "sharpness_average"} <= set(result.rows[-1].measures)
    with Results.open(tmp_path / "a") as results:
        assert results.runs()[0].status == "finished"


def test_a_budget_is_no_reason_to_warn_where_patience_ended_the_run(tmp_path: Path) -> None:
    carry_out(patient(tmp_path, budget=10**9), told := Told())
    assert told.warnings == []


def test_actors_stop_where_this_process_does(tmp_path: Path, shared_actors: None) -> None:
    inline, ray = run(patient(tmp_path / "a")), run(patient(tmp_path / "b", compute={"grid": "ray", "actors": 2}))
    assert len(ray.rows) == len(inline.rows) < 40
    assert without_seconds(ray.rows) == without_seconds(inline.rows)


@pytest.mark.parametrize("every", [0, 2])
def test_what_was_interrupted_ends_in_the_same_round(tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, settings = (patient(tmp_path / name, checkpoint__every=every) for name in "ab")
    whole = carry_out(undisturbed)
    stopped(settings, 3, monkeypatch)
    with Results.open(tmp_path / "b") as results:
        (interrupted,) = results.runs()
    assert resumed(tmp_path / "b", interrupted.id).status == "finished"
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert model(tmp_path / "a", whole.run_id) == model(tmp_path / "b", interrupted.id)


def test_it_needs_examples_that_are_held_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"measure\.patience: 3 is not allowed without data\.validation"):
        check(patient(tmp_path, data__validation=0.0))
