"""Judges: who may end a run before its time is told of every evaluated round, and what is left of the run can go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.callbacks.callback import Callback
from experiments.planning.plan import plan
from experiments.running import scheduler
from experiments.running.grids import DatasetCache, actor_groups
from experiments.running.judging import Judge
from experiments.running.scheduler import Outcome, side_by_side
from experiments.settings.catalogue import check
from fedsam.config import Experiment
from fedsam.results.listing import listed_runs
from fedsam.results.rows import Row
from fedsam.results.store import Results
from tests.experiments.running.test_resume import Told, carry_out, experiment, model
from tests.support.content import content
from tests.support.recorded import lines_of

TRIAL: Mapping[str, Any] = {"data.validation": 0.2, "measure.test": False, "measure.flatness.measures": [], "measure.every": 1}


class Until:
    """Ends a run after a round, and keeps what it is told.

    Attributes:
        told: Round and validation accuracy.
    """

    def __init__(self, round: int) -> None:
        self.round = round
        self.told: list[tuple[int, float]] = []

    def __call__(self, row: Row) -> bool:
        self.told.append((row.round, row.measures["validation_accuracy"]))
        return row.round >= self.round


def judged(settings: Experiment, judge: Judge, callback: Callback | None = None) -> Outcome:
    with actor_groups([settings], 1) as groups:
        return scheduler.carry_out(check(settings), groups[0], callback or Callback(), once=True, judge=judge)


def validation(folder: Path) -> list[tuple[int, float]]:
    """Rounds and validation accuracies of the only run."""
    with Results.open(folder) as results:
        (run,) = results.runs()
        return results.curve(run.id, "validation_accuracy")


def test_a_judge_is_told_of_every_evaluated_round_and_ends_the_run(tmp_path: Path) -> None:
    settings = experiment(tmp_path, TRIAL, measure__every=2)
    outcome = judged(settings, judge := Until(4))
    assert (outcome.status, outcome.error) == ("pruned", "ended after round 4 by the judge of its rounds")
    assert judge.told == validation(tmp_path)
    assert [round for round, _ in judge.told] == [2, 4]
    with Results.open(tmp_path) as results:
        (run,), (entry,), (listed,) = results.runs(), lines_of(results), listed_runs(results)
        assert len(results.rounds(run.id)) == 4
        assert (run.status, listed.status, entry.status) == ("pruned", "pruned", "pruned after round 4 of 6")
        assert not entry.is_ranked
        assert plan([settings], DatasetCache(), results)[0].concluded_run is None
    assert not (tmp_path / run.id / "model.safetensors").exists()


@pytest.mark.parametrize("changes", [{}, {"measure.patience": 1, "client.optimizer.lr": 1e-9}, {"budget": 1}])
def test_a_run_that_ends_anyway_has_finished(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = experiment(tmp_path, {**TRIAL, **changes})
    ends = {"measure.patience": 2, "budget": 1}.get(next(iter(changes), ""), 6)
    assert judged(settings, judge := Until(ends)).status == "finished"
    assert [round for round, _ in judge.told] == list(range(1, ends + 1))


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_pruned_goes_on_without_a_judge_as_if_it_had_not_been(
    tmp_path: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, settings = (experiment(tmp_path / name, TRIAL) for name in "ab")
    whole = carry_out(undisturbed)
    if killed:  # before its checkpoint
        monkeypatch.setattr("experiments.running.checkpointing.Checkpointer.stop", lambda self: None)
    pruned = judged(settings, Until(3))
    end = carry_out(settings, told := Told())
    assert (end.run_id, end.status) == (pruned.run_id, "finished")
    assert told.resumed_rounds == ([] if killed else [2])
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert model(tmp_path / "a", whole.run_id) == model(tmp_path / "b", end.run_id)


def test_a_run_that_goes_on_is_judged_by_its_earlier_rounds_first(tmp_path: Path) -> None:
    settings = experiment(tmp_path, TRIAL)
    with pytest.raises(KeyboardInterrupt):
        judged(settings, Until(9), Told(4))
    assert judged(settings, judge := Until(5)).status == "pruned"
    assert judge.told == validation(tmp_path)
    assert [round for round, _ in judge.told] == [1, 2, 3, 4, 5]


def test_a_judge_that_changes_its_mind_ends_a_run_where_it_would_have(tmp_path: Path) -> None:
    settings = experiment(tmp_path, TRIAL)
    judged(settings, Until(4))
    again = judged(settings, judge := Until(2))
    assert (again.status, again.error) == ("pruned", "ended after round 2 by the judge of its rounds")
    assert [round for round, _ in judge.told] == [1, 2]


def test_an_error_of_a_judge_is_one_of_its_run(tmp_path: Path) -> None:
    def judge(row: Row) -> bool:
        raise ValueError("undecided")

    assert judged(experiment(tmp_path, TRIAL), judge).error == "undecided"
    with Results.open(tmp_path) as results:
        assert [(run.status, run.error) for run in results.runs()] == [("failed", "ValueError: undecided")]


def test_each_run_has_its_own_judge_on_two_actors_and_in_two_processes_as_in_this_one(tmp_path: Path, shared_actors: None) -> None:
    judges: list[Judge | None] = [Until(2), None, Until(3)]
    outcomes = {}
    actors = {"grid": "ray", "actors": 2}
    for name, compute, parallel in (("a", {"grid": "inline"}, 1), ("b", actors, 1), ("c", actors, 2), ("d", {"grid": "inline"}, 2)):
        several = [experiment(tmp_path / name, TRIAL, compute=compute, seed=seed) for seed in range(3)]
        with actor_groups(several, parallel) as groups:
            judged_runs = [(check(one), judge) for one, judge in zip(several, judges, strict=True)]
            outcomes[name] = side_by_side(
                judged_runs, groups, lambda item, group: scheduler.carry_out(item[0], group, Callback(), judge=item[1])
            )
    assert {tuple(outcome.status for outcome in found) for found in outcomes.values()} == {("pruned", "finished", "pruned")}
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c") == content(tmp_path / "d")
