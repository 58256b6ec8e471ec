from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from experiments.callbacks.plans import PlannedWork, RunPlan
from experiments.watching.curves import MOST_POINTS, curve
from experiments.watching.index import IndexedRun
from experiments.watching.progress import Progress, plan_progress, run_eta, run_fraction
from experiments.watching.rounds import RoundFigures, RunRounds

START = "2026-01-01T00:00:00+00:00"
STARTED = 1767225600.0  # seconds since the epoch


def indexed(name: str, status: str = "running", budget: int | None = None, seed: int = 0) -> IndexedRun:
    return IndexedRun(
        row=1,
        id=name,
        method="sgd",
        status=status,
        stored_status=status,
        error=None,
        started=START,
        finished=None,
        seed=seed,
        dataset="digits",
        clients=4,
        command="fedsam",
        process=("here", 1, "1"),
        heartbeat=None,
        startup=10.0,
        rounds=10,
        budget=budget,
        actors=None,
        alike="",
    )


def rounds(number: int, values: list[float | None] | None = None) -> RunRounds:
    """Rounds of 3 s with 100 gradient evaluations each."""
    taken = values or [0.5] * number
    return RunRounds([RoundFigures(place + 1, 2, 1, 6.0, 3.0, 100, taken[place], 2) for place in range(number)])


def test_the_fraction_of_a_run_is_that_of_its_rounds_or_of_its_budget_whichever_is_more() -> None:
    assert run_fraction(indexed("a"), rounds(4)) == 0.4
    assert run_fraction(indexed("a", budget=500), rounds(4)) == 0.8
    assert run_fraction(indexed("a", budget=300), rounds(4)) == 1.0  # the last round goes beyond it
    assert run_fraction(indexed("a", "finished"), rounds(4)) == 1.0  # which patience or the budget ended
    assert run_fraction(indexed("a", "of a later version"), rounds(4)) == 1.0
    assert run_fraction(indexed("a", "interrupted"), rounds(4)) == 0.4


def test_the_time_left_of_a_run_is_at_its_own_rate() -> None:
    now = STARTED + 10 + 40  # 4 rounds in 40 s after the start-up
    assert run_eta(indexed("a"), rounds(4), 0, now) == pytest.approx(60.0)
    assert run_eta(indexed("a"), rounds(4), 3, now) == pytest.approx(18.0)  # it went on: 6 rounds of 3 s
    assert run_eta(indexed("a"), rounds(0), 0, now) is None
    assert run_eta(indexed("a", "finished"), rounds(4), 0, now) is None


def test_the_progress_of_a_plan_is_that_of_its_work() -> None:
    planned = [
        PlannedWork(work=100.0, rounds=10, run="a"),
        PlannedWork(work=300.0, rounds=10, run="b", rounds_before=2),
        PlannedWork(work=50.0, rounds=10, skipped=True),
        PlannedWork(work=200.0, rounds=10),
    ]
    plan = RunPlan(id=1, started=STARTED, host="here", pid=1, born="1", runs=tuple(planned))
    runs = {"a": indexed("a", "finished"), "b": indexed("b")}
    found = plan_progress(plan, runs, {"b": rounds(5)}, STARTED + 10 + 95)
    # 100 of run a and 300 * 3 / 10 of run b in 95 s; 300 / 2 of run b and 200 are left
    assert found == Progress(ended=1, runs=3, fraction=250 / 600, eta=pytest.approx(350 * 95 / 190))
    stopped = {**runs, "b": replace(runs["b"], status="interrupted")}
    assert plan_progress(plan, stopped, {"b": rounds(5)}, STARTED + 105).eta is None


def test_a_curve_is_the_mean_over_the_seeds_that_have_reached_a_round() -> None:
    runs = [indexed("a", seed=0), indexed("b", seed=1)]
    found = curve(runs, {"a": rounds(3, [0.1, None, 0.5]), "b": rounds(1, [0.3])})
    half = 12.706204736 * 0.1  # Student's t with one degree of freedom, times the standard error
    assert found == [(1, pytest.approx(0.2), pytest.approx(half), 2), (3, 0.5, None, 1)]


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    number = 5 * MOST_POINTS + 3
    found = curve([indexed("a")], {"a": rounds(number)})
    assert len(found) <= MOST_POINTS and found[-1][0] == number
    assert {later[0] - one[0] for one, later in itertools.pairwise(found)} == {6}


def test_what_rounds_come_to() -> None:
    of_run = rounds(20)
    assert (of_run.last, of_run.failures, of_run.retries, of_run.gradient_evaluations) == (20, 20, 40, 2000)
    assert (of_run.cohort, of_run.busy_actors, of_run.seconds_per_round) == (2, 2.0, 3.0)
    none = RunRounds()
    assert (none.last, none.cohort, none.busy_actors, none.seconds_per_round) == (0, None, None, None)
    assert math.isnan(rounds(1, [math.nan]).points[1])
