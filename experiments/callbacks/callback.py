"""Callbacks: what is told of runs while they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsam.config import Experiment
    from fedsam.results.rows import Row


class Callback:
    """Base class of callbacks, whose methods do nothing.

    `plan` is called first, then for each run `trial` if it is one of settings, `started`, `resumed` if it was begun earlier, `round` after
    each round, and `finished`; the others at any time. Runs in parallel call from threads of their own.
    """

    def plan(self, experiments: Sequence[Experiment], seconds: Sequence[float] | None = None) -> None:
        """Runs are going to be made: their experiments in order, and the estimated seconds of each, if known."""

    def phase(self, text: str, run_id: str | None = None) -> None:
        """What begins now, before the first run or, with `run_id`, before the first round of a run: data are loaded, Ray starts, ..."""

    def trial(self, experiment: Experiment, title: str) -> None:
        """The next run of this experiment is made to choose settings; what it is called in progress."""

    def started(self, run_id: str, experiment: Experiment) -> None:
        """A run has started."""

    def resumed(self, run_id: str, rows: Sequence[Row]) -> None:
        """A run that was started goes on from a checkpoint of an earlier process: it has these rounds, and evaluates the next one again."""

    def checkpointed(self, run_id: str, round: int, seconds: float) -> None:
        """A checkpoint after this round was written, in so many seconds."""

    def warn(self, run_id: str, text: str) -> None:
        """A run has a warning for the user."""

    def round(self, row: Row) -> None:
        """A round is finished, evaluated and stored; the next one may have begun. Rounds come in order."""

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """A run has ended; `error` is the reason when `status` is not `finished`."""

    def skipped(self, experiment: Experiment, why: str) -> None:
        """A run of the plan is not made, for the reason `why`."""


EVENTS = tuple(name for name in vars(Callback) if not name.startswith("_"))


class CallbackList(Callback):
    """Calls several callbacks in order."""

    def __init__(self, *callbacks: Callback) -> None:
        for event in EVENTS:
            setattr(self, event, partial(self._call_all, [getattr(callback, event) for callback in callbacks]))

    @staticmethod
    def _call_all(methods: Sequence[Callable[..., None]], *arguments: Any) -> None:
        for method in methods:
            method(*arguments)
