"""Methods over their seeds: which runs count, and the mean of a measure after each round with its interval."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.analysis.conditions import condition_text, run_conditions
from experiments.analysis.estimate import Estimate
from experiments.analysis.labels import labels
from experiments.watching.index import IndexedRun, select
from experiments.watching.rounds import RunRounds
from fedsam.results.rows import Run

MOST_POINTS = 200  # of a curve
PREFERENCE = ("finished", "diverged", "running", "interrupted")  # of several runs of a seed the first such counts, the newest of them

Process = tuple[str, int, str]  # of a run, which changes when another goes on with it, and its settings may with it
Point = tuple[int, float, float | None, int]  # round, mean, half-width of the 95 % interval or None, seeds


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed alone.

    Attributes:
        label: Components and settings in which it differs from the others.
        condition: What runs share that are compared with each other, in words: the number of clients, and data settings that vary.
        runs: One for each seed, which counts.
        every: All of its runs.
    """

    label: str
    condition: str
    runs: tuple[IndexedRun, ...]
    every: tuple[IndexedRun, ...]

    @property
    def statuses(self) -> Mapping[str, int]:
        """Number of its runs by status."""
        return Counter(run.status for run in self.every)


class MethodTable:
    """Sorts runs into methods. Settings are read once for each run, labels found once for each set of runs."""

    def __init__(self) -> None:
        self._settings: dict[tuple[str, Process], list[Run]] = {}
        self._named: tuple[Any, dict[str, tuple[int, str, str]]] = (None, {})  # what the names are of, and the names

    def methods(self, connection: sqlite3.Connection, runs: Sequence[IndexedRun], tuned: Collection[str] = ()) -> tuple[list[Method], int]:
        """The methods of runs, by condition and then in the order of their first runs, and how many runs have no readable settings.

        Args:
            tuned: As of `labels`.
        """
        named = self._names(connection, runs, tuned)
        groups: dict[tuple[int, str, str], list[IndexedRun]] = {}
        for run in runs:
            if run.id in named:
                groups.setdefault(named[run.id], []).append(run)
        found = [Method(label, where, _counted(each), tuple(each)) for (_, where, label), each in _sorted(groups)]
        return found, len(runs) - len(named)

    def _names(self, connection: sqlite3.Connection, runs: Sequence[IndexedRun], tuned: Collection[str]) -> dict[str, tuple[int, str, str]]:
        """Place of the condition, the condition and the label of each run."""
        known = frozenset(tuned), tuple((run.id, run.process) for run in runs)
        if known != self._named[0]:
            self._read([run for run in runs if (run.id, run.process) not in self._settings], connection)
            found = [one for run in runs for one in self._settings[run.id, run.process]]
            label, where = labels(found, tuned), run_conditions(found)
            place = {condition: number for number, condition in enumerate(sorted(set(where.values())))}
            names = {run.id: (place[where[run.id]], condition_text(where[run.id]), label[run.id]) for run in found}
            self._named = known, names
        return self._named[1]

    def _read(self, runs: Sequence[IndexedRun], connection: sqlite3.Connection) -> None:
        found = {run.id: run for run in with_settings(connection, runs)}
        self._settings.update({(run.id, run.process): [found[run.id]] if run.id in found else [] for run in runs})


def with_settings(connection: sqlite3.Connection, runs: Sequence[IndexedRun]) -> list[Run]:
    """The runs with all that the results hold of them, without those that cannot be read."""
    found = {entry["id"]: entry for entry in select(connection, "SELECT * FROM runs WHERE id IN", [run.id for run in runs])}
    return [one for run in runs if run.id in found and (one := _readable(found[run.id])) is not None]


def curve(runs: Sequence[IndexedRun], rounds: Mapping[str, RunRounds]) -> list[Point]:
    """The mean of the measure over the seeds that have reached a round, for at most `MOST_POINTS` rounds, the last included."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for round, value in rounds[run.id].points.items():
            values.setdefault(round, []).append(value)
    chosen = sorted(values)
    stride = math.ceil(len(chosen) / MOST_POINTS)
    if stride > 1:
        chosen = [round for place, round in enumerate(chosen) if (len(chosen) - 1 - place) % stride == 0]
    return [_point(round, values[round]) for round in chosen]


def _point(round: int, values: Sequence[float]) -> Point:
    estimate = Estimate.of(values)
    return round, estimate.mean, estimate.half_width, len(values)


def _counted(runs: Sequence[IndexedRun]) -> tuple[IndexedRun, ...]:
    """For each seed the run that counts; one that failed counts where there is no other."""
    chosen: dict[int, IndexedRun] = {}
    for run in sorted(runs, key=lambda run: (_preference(run), -run.row)):
        chosen.setdefault(run.seed, run)
    return tuple(chosen[seed] for seed in sorted(chosen))


def _preference(run: IndexedRun) -> int:
    return PREFERENCE.index(run.status) if run.status in PREFERENCE else len(PREFERENCE)


def _sorted(groups: Mapping[tuple[int, str, str], list[IndexedRun]]) -> list[Any]:
    return sorted(groups.items(), key=lambda item: (item[0][0], min(run.row for run in item[1])))


def _readable(entry: sqlite3.Row) -> Run | None:
    try:
        return Run.from_entry(entry)
    except (ValueError, TypeError, LookupError, AttributeError):  # damaged, or of a later version
        return None
