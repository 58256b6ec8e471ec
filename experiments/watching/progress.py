"""How far a command is, and when it will be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from experiments.callbacks.plans import RunPlan
from experiments.watching.index import IndexedRun
from experiments.watching.rounds import RunRounds


@dataclass(frozen=True)
class Progress:
    """How far the runs of a command are.

    Attributes:
        ended: Number of runs that have ended.
        runs: Number of runs, of which those that are skipped are none.
        fraction: Of the work, from 0 to 1.
        eta: Seconds until the end at the rate since the first round; None where nothing is at work or no round has come yet.
    """

    ended: int
    runs: int
    fraction: float
    eta: float | None


def run_fraction(run: IndexedRun, rounds: RunRounds | None) -> float:
    """How much of a run is done, from 0 to 1, by its rounds or its budget, whichever ends it first; 1 of one that has ended."""
    if run.has_ended:
        return 1.0
    if rounds is None or not run.rounds:
        return 0.0
    spent = rounds.gradient_evaluations / run.budget if run.budget else 0.0
    return min(1.0, max(rounds.last / run.rounds, spent))


def run_eta(run: IndexedRun, rounds: RunRounds, before: int, now: float) -> float | None:
    """Seconds until a run at work ends, at its rate so far; None before its first round.

    Args:
        before: Rounds that it had before its process went on with it: its start says nothing then, and the last rounds do.
        now: Seconds since the epoch.
    """
    done = run_fraction(run, rounds)
    if not run.is_running or not done or rounds.seconds_per_round is None:
        return None
    if before or run.startup is None:
        return rounds.seconds_per_round * rounds.last / done * (1 - done)
    return max(0.0, now - seconds_since_epoch(run.started) - run.startup) / done * (1 - done)


def plan_progress(plan: RunPlan, runs: Mapping[str, IndexedRun], rounds: Mapping[str, RunRounds], now: float) -> Progress:
    """How far the runs of a plan are.

    Args:
        runs: At least those of the plan that have started and are still in the results.
        rounds: Of those of them that have not ended, at least.
        now: Seconds since the epoch.
    """
    work = done = new = 0.0
    ended = number = 0
    startup = next((found.startup for one in plan.runs if (found := runs.get(one.run or "")) and found.startup is not None), 0.0)
    for one in plan.runs:
        if one.skipped:
            continue
        run = runs.get(one.run or "")
        fraction = 0.0 if run is None else run_fraction(run, rounds.get(run.id))
        before = min(fraction, one.rounds_before / one.rounds) if one.rounds_before else 0.0
        number, ended = number + 1, ended + (run is not None and run.has_ended)
        work, done, new = work + one.work, done + one.work * fraction, new + one.work * (fraction - before)
    at_work = any(run.is_running for one in plan.runs if (run := runs.get(one.run or "")))
    elapsed = now - plan.started - startup
    eta = (work - done) * elapsed / new if at_work and new > 0 and elapsed > 0 else None
    return Progress(ended, number, done / work if work else 0.0, eta)


def seconds_since_epoch(text: str) -> float:
    """Seconds since the epoch of a time of the results, UTC in ISO 8601."""
    return datetime.fromisoformat(text).timestamp()
