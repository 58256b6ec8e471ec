"""What a person sees while runs go on: a live line on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import rich.console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

if TYPE_CHECKING:
    from fedsam.config import Experiment
    from fedsam.rows import Row


class Watch(Protocol):
    """What runs report to, in this order: the plan, then for each run its start, its rounds and its end; notes at any time."""

    def plan(self, experiments: Sequence[Experiment]) -> None:
        """All runs that will be made, in order."""

    def started(self, run_id: str, experiment: Experiment) -> None:
        """A run begins."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def round(self, row: Row) -> None:
        """A round of the current run is finished and kept."""

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """The current run is over; `error` says why when `status` is not `finished`."""


class Quiet:
    """A `Watch` that says nothing."""

    def plan(self, experiments: Sequence[Experiment]) -> None:
        """Nothing."""

    def started(self, run_id: str, experiment: Experiment) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def round(self, row: Row) -> None:
        """Nothing."""

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """Nothing."""


class Tee:
    """A `Watch` that tells several others, in order."""

    def __init__(self, *watches: Watch) -> None:
        self._watches = watches

    def plan(self, experiments: Sequence[Experiment]) -> None:
        """As each of them."""
        for watch in self._watches:
            watch.plan(experiments)

    def started(self, run_id: str, experiment: Experiment) -> None:
        """As each of them."""
        for watch in self._watches:
            watch.started(run_id, experiment)

    def note(self, text: str) -> None:
        """As each of them."""
        for watch in self._watches:
            watch.note(text)

    def round(self, row: Row) -> None:
        """As each of them."""
        for watch in self._watches:
            watch.round(row)

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """As each of them."""
        for watch in self._watches:
            watch.finished(run_id, status, error)


class Console:
    """A `Watch` that prints to a terminal; a context manager, so that the terminal is itself again after an error.

    On a terminal the current run is one live line with a bar; elsewhere every round is a plain line. The estimated time of arrival
    (ETA) is that of the whole plan, at the rate of the current run's rounds; the first round of a run does not count, it warms up.
    """

    def __init__(self, console: rich.console.Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._rounds: list[int] = []
        self._run = 0
        self._name = ""
        self._begun = 0.0
        self._warm: tuple[int, float] | None = None  # first round seen of the current run, and when it was over
        self._last = "no round"
        self._live = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[run]}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._live.add_task("starting", total=None, run="", visible=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def plan(self, experiments: Sequence[Experiment]) -> None:
        """Remember how many rounds there are to come, and say so."""
        self._rounds = [experiment.rounds for experiment in experiments]
        self._run = 0
        self._say(f"{_counted(len(self._rounds), 'run')}, {_counted(sum(self._rounds), 'round')}")
        self._live.update(self._task, description="starting", run="", total=None, visible=True)

    def started(self, run_id: str, experiment: Experiment) -> None:
        """Begin the line of this run."""
        self._run += 1
        self._begun, self._warm, self._last = self._clock(), None, "no round"
        self._name = f"{_method(experiment)}, {experiment.data.clients} clients"
        head = f"run {self._run}/{len(self._rounds)} {self._name}"
        if not self._console.is_terminal:
            self._say(f"{head}, seed {experiment.seed} ({run_id})")
        self._live.reset(self._task, total=experiment.rounds, description="starting", run=head)

    def note(self, text: str) -> None:
        """Print `text` in a line of its own."""
        self._say(text, style="bold yellow")

    def round(self, row: Row) -> None:
        """Show the round: cohort, accuracy and loss where they were measured, speed and what is left."""
        rate = self._rate(row)
        total = self._rounds[self._run - 1]
        left = total - row.round + sum(self._rounds[self._run :])
        self._last = _measures(row)
        text = f"round {row.round}/{total} cohort {row.cohort} {self._last} {rate:.2g} rounds/s ETA {duration(left / rate)}"
        if not self._console.is_terminal:
            self._say(text)
        self._live.update(self._task, completed=row.round, description=text)

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """Leave one line about the run."""
        seconds = duration(self._clock() - self._begun)
        text = f"run {self._run}/{len(self._rounds)} {self._name} {status} after {seconds}: {error or self._last}"
        self._say(text, style="" if status == "finished" else "bold red")

    def _rate(self, row: Row) -> float:
        """Rounds per second of the current run, evaluation included; of the first round alone, its training."""
        now = self._clock()
        if self._warm is None:
            self._warm = (row.round, now)
            return 1 / max(row.wall_seconds, 1e-9)
        first, since = self._warm
        return (row.round - first) / max(now - since, 1e-9)

    def _say(self, text: str, style: str = "") -> None:
        # soft_wrap: a line stays a line in a log, whatever its width.
        self._live.console.print(escape(text), style=style, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(12.3), duration(100), duration(7500)
    ('12 s', '1 min 40 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _method(experiment: Experiment) -> str:
    parts = (experiment.client.optimizer, experiment.client.correction, experiment.server.strategy)
    return experiment.name or experiment.method or " x ".join(part.name for part in parts)


def _measures(row: Row) -> str:
    accuracy, loss = row.measures.get("test_accuracy"), row.measures.get("test_loss")
    if accuracy is None or loss is None:
        return f"train loss {row.train_loss:.3g}"
    return f"acc {100 * accuracy:.1f} % loss {loss:.3g}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
