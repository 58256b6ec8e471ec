"""The callback that keeps the plan of a command in the results, where `fedsam watch` reads it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.callbacks.callback import Callback
from experiments.callbacks.plans import PlannedWork, add_plan, update_planned_run
from fedsam.results.database import DATABASE_NAME
from fedsam.wording import ConfigError

if TYPE_CHECKING:
    from fedsam.config import Experiment
    from fedsam.results.rows import Row


class PlanRecorder(Callback):
    """Writes the plan when its first run starts, and then which of its runs have started or are skipped.

    A plan is for those who watch: where it cannot be written nothing is said, since a run's own writes tell what is wrong with the file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._experiments: list[Experiment] = []
        self._runs: list[PlannedWork] = []
        self._id: int | None = None

    def plan(self, experiments: Sequence[Experiment], seconds: Sequence[float] | None = None) -> None:
        """Remember the plan; there may be no results yet."""
        with self._lock:
            works = seconds or [float(experiment.rounds) for experiment in experiments]
            self._experiments, self._id = list(experiments), None
            self._runs = [PlannedWork(work=work, rounds=one.rounds) for one, work in zip(experiments, works, strict=True)]

    def trial(self, experiment: Experiment, title: str) -> None:
        """Take the next run of the plan for this one: which settings are tried was not known before."""
        with self._lock:
            number = next((i for i, one in enumerate(self._runs) if not (one.run or one.skipped)), None)
            if number is not None:
                self._experiments[number] = experiment

    def started(self, run_id: str, experiment: Experiment) -> None:
        """Note the run's id."""
        with self._lock:
            number = self._waiting(experiment)
            if number is not None:
                self._note(number, replace(self._runs[number], run=run_id))

    def resumed(self, run_id: str, rows: Sequence[Row]) -> None:
        """Note the rounds that there are."""
        with self._lock:
            for number, one in enumerate(self._runs):
                if one.run == run_id:
                    self._note(number, replace(one, rounds_before=len(rows)))

    def skipped(self, experiment: Experiment, why: str) -> None:
        """Note that it is not made."""
        with self._lock:
            number = self._waiting(experiment)
            if number is not None:
                self._note(number, replace(self._runs[number], skipped=True), begin=False)

    def _waiting(self, experiment: Experiment) -> int | None:
        """The number of a run of the plan that is this experiment and has not begun."""
        numbers = range(len(self._runs))
        return next((i for i in numbers if self._experiments[i] == experiment and not (self._runs[i].run or self._runs[i].skipped)), None)

    def _note(self, number: int, now: PlannedWork, *, begin: bool = True) -> None:
        """Write how it stands with a run, and the plan if it is not written yet and a run starts: its results are there then."""
        self._runs[number] = now
        database = self._experiments[number].runs_dir / DATABASE_NAME
        with suppress(sqlite3.Error, ConfigError):
            if self._id is not None:
                update_planned_run(database, self._id, number, now)
            elif begin:
                self._id = add_plan(database, self._runs)
