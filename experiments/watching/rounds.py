"""The rounds of runs as the page needs them, kept so that later only new ones are read."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from experiments.watching.index import IndexedRun

MOST_KEPT = 3000  # runs with one measure each; then all are read again
RECENT = 10  # rounds whose mean tells how a run goes now
QUERY = """
    SELECT rounds.round, cohort, failures, client_seconds, wall_seconds, gradient_evaluations, train_loss, measure.value AS value,
        retried.value AS retries, measure.round IS NOT NULL AS measured
    FROM rounds
    LEFT JOIN measures AS measure ON measure.run = rounds.run AND measure.round = rounds.round AND measure.name = :measure
    LEFT JOIN measures AS retried ON retried.run = rounds.run AND retried.round = rounds.round AND retried.name = 'retries'
    WHERE rounds.run = :run AND rounds.round >= :first ORDER BY rounds.round"""


class RoundFigures(NamedTuple):
    """A round as the results hold it, with one measure; None: it was not taken in this round."""

    round: int
    cohort: int
    failures: int
    client_seconds: float
    wall_seconds: float
    gradient_evaluations: int
    value: float | None
    retries: int


@dataclass
class RunRounds:
    """The rounds of a run with one measure.

    Attributes:
        rows: In order.
        complete: Whether the run had ended, and how, when they were read; None while it was running.
    """

    rows: list[RoundFigures] = field(default_factory=list)
    complete: tuple[str, str | None] | None = None

    @property
    def last(self) -> int:
        """Number of the last round; 0 without one."""
        return self.rows[-1].round if self.rows else 0

    @property
    def points(self) -> dict[int, float]:
        """The measure by round; NaN where it was not finite."""
        return {row.round: row.value for row in self.rows if row.value is not None}

    @property
    def failures(self) -> int:
        """Clients that failed, in all rounds."""
        return sum(row.failures for row in self.rows)

    @property
    def retries(self) -> int:
        """Clients that were asked again, in all rounds."""
        return sum(row.retries for row in self.rows)

    @property
    def gradient_evaluations(self) -> int:
        """In all rounds."""
        return sum(row.gradient_evaluations for row in self.rows)

    @property
    def cohort(self) -> int | None:
        """Clients that trained in the last round."""
        return self.rows[-1].cohort if self.rows else None

    @property
    def busy_actors(self) -> float | None:
        """Clients that trained at the same time, the mean over the last rounds; None without a round."""
        recent = self.rows[-RECENT:]
        seconds = sum(row.wall_seconds for row in recent)
        return sum(row.client_seconds for row in recent) / seconds if seconds > 0 else None

    @property
    def seconds_per_round(self) -> float | None:
        """Of training, the mean over the last rounds; None without a round."""
        recent = self.rows[-RECENT:]
        return sum(row.wall_seconds for row in recent) / len(recent) if recent else None


class RoundsCache:
    """The rounds of runs that somebody looks at."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int, str], RunRounds] = {}

    def read(self, connection: sqlite3.Connection, runs: Iterable[IndexedRun], measure: str) -> dict[str, RunRounds]:
        """The rounds of runs, by id, with a measure: `train_loss`, or one that an evaluation takes."""
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        found = {}
        for run in runs:
            kept = self._kept.setdefault((run.id, run.row, measure), RunRounds())
            state = None if run.is_running else (run.status, run.finished)
            if state is None or kept.complete != state:
                _extend(connection, kept, run.id, measure)
                kept.complete = state
            found[run.id] = kept
        return found


def _extend(connection: sqlite3.Connection, kept: RunRounds, run: str, measure: str) -> None:
    """Read the last round again, which an earlier process may have left without its evaluation, and those after it."""
    first = kept.last
    rows = [_row(row, measure) for row in connection.execute(QUERY, {"run": run, "measure": measure, "first": first})]
    kept.rows[:] = [row for row in kept.rows if row.round < first] + rows


def _row(row: sqlite3.Row, measure: str) -> RoundFigures:
    measured, value = (True, row["train_loss"]) if measure == "train_loss" else (row["measured"], row["value"])
    number = math.nan if value is None else float(value)
    return RoundFigures(
        round=row["round"],
        cohort=row["cohort"],
        failures=row["failures"],
        client_seconds=row["client_seconds"],
        wall_seconds=row["wall_seconds"],
        gradient_evaluations=row["gradient_evaluations"],
        value=number if measured else None,
        retries=int(row["retries"] or 0),
    )
