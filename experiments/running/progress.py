"""What a person sees while runs go on: live lines on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import rich.console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

if TYPE_CHECKING:
    from fedsam.config import Experiment
    from fedsam.results.rows import Row


class Callback:
    """What runs report to: the plan, then for each run its start, its rounds and its end; warnings at any time. This one ignores all.

    Runs that go on at once report from threads of their own.
    """

    def plan(self, experiments: Sequence[Experiment], seconds: Sequence[float] | None = None) -> None:
        """All runs that will be made, in order, and how long each will take, where that was estimated."""

    def started(self, run_id: str, experiment: Experiment) -> None:
        """A run begins."""

    def warn(self, run_id: str, text: str) -> None:
        """Something a person should know about a run."""

    def round(self, row: Row) -> None:
        """A round is finished and kept."""

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """A run is over; `error` says why when `status` is not `finished`."""

    def skipped(self, experiment: Experiment, why: str) -> None:
        """A run of the plan is not made."""


EVENTS = ("plan", "started", "warn", "round", "finished", "skipped")  # the methods of a callback


class CallbackList(Callback):
    """Several callbacks as one: each is told everything, in order."""

    def __init__(self, *callbacks: Callback) -> None:
        for event in EVENTS:
            setattr(self, event, partial(self._tell, [getattr(callback, event) for callback in callbacks]))

    @staticmethod
    def _tell(methods: Sequence[Callable[..., None]], *arguments: Any) -> None:
        for method in methods:
            method(*arguments)


@dataclass
class _Running:
    """A run that goes on.

    Attributes:
        head: What it is called: its place in the plan, method and clients.
        work: Its share of the plan, in the plan's unit.
        last: What its last evaluation gave.
        warm: Its first round, and when that was over.
    """

    experiment: Experiment
    head: str
    work: float
    begun: float
    task: TaskID
    last: str = "no round"
    spent: int = 0
    done: float = 0.0
    warm: tuple[int, float] | None = None


class ConsoleCallback(Callback):
    """Prints to a terminal; a context manager, so that the terminal is itself again after an error.

    On a terminal each run that goes on is one live line with a bar, and of several runs one more is the whole; elsewhere every round is a
    plain line. The estimated time of arrival (ETA) is that of the whole plan, at the rate so far; the first round does not count, it
    warms up.
    """

    def __init__(self, console: rich.console.Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._lock = threading.RLock()
        self._plan: list[tuple[Experiment, float]] = []  # with the work of each, in estimated seconds or in rounds
        self._over, self._spent = 0, 0.0  # runs that are over, and their work
        self._running: dict[str, _Running] = {}
        self._warm: tuple[float, float] | None = None  # work done after the first round of all, and when that was
        self._live = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[run]}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._whole = self._live.add_task("starting", total=None, run="", visible=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def plan(self, experiments: Sequence[Experiment], seconds: Sequence[float] | None = None) -> None:
        """Remember what there is to come, and say so."""
        with self._lock:
            rounds = [experiment.rounds for experiment in experiments]
            self._plan = list(zip(experiments, seconds or map(float, rounds), strict=True))
            self._over, self._spent, self._warm = 0, 0.0, None
            most = "at most " * any(experiment.budget for experiment in experiments)
            self._say(f"{_counted(len(rounds), 'run')}, {most}{_counted(sum(rounds), 'round')}")
            self._live.reset(self._whole, total=self._total(), description="starting", run="", visible=True)

    def started(self, run_id: str, experiment: Experiment) -> None:
        """Begin the line of this run."""
        with self._lock:
            several, (head, work) = len(self._plan) > 1, self._place(experiment)
            if not self._console.is_terminal:
                self._say(f"{head}, seed {experiment.seed} ({run_id})")
            task = self._live.add_task("starting", total=1.0, run=f"{head}, seed {experiment.seed}" if several else head)
            self._live.update(self._whole, visible=several)
            self._running[run_id] = _Running(experiment, head, work, self._clock(), task)

    def warn(self, run_id: str, text: str) -> None:
        """Print `text` in a line of its own."""
        with self._lock:
            self._say(f"{self._which(run_id)}{text}", style="bold yellow")

    def round(self, row: Row) -> None:
        """Show the round: cohort, accuracy and loss where they were measured, speed and what is left."""
        with self._lock:
            run = self._running[row.run]
            rate, eta = self._rate(run, row), self._eta(run, row)
            run.last = _measures(row)
            budget = run.experiment.budget
            share = f" budget {100 * run.spent / budget:.0f} %" if budget else ""
            text = f"round {row.round}/{run.experiment.rounds}{share} cohort {row.cohort} {run.last} {rate:.2g} rounds/s"
            if not self._console.is_terminal:
                self._say(f"{self._which(row.run)}{text} {eta}")
            several = len(self._plan) > 1
            self._live.update(run.task, completed=run.done, description=text if several else f"{text} {eta}")
            self._live.update(self._whole, completed=self._done(), run=f"{self._over}/{len(self._plan)} runs", description=eta)

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """Leave one line about the run."""
        with self._lock:
            run = self._running.pop(run_id)
            self._live.remove_task(run.task)
            self._pass(run.work)
            text = f"{run.head} {status} after {duration(self._clock() - run.begun)}: {error or run.last}"
            self._say(text, style="" if status == "finished" else "bold red")

    def skipped(self, experiment: Experiment, why: str) -> None:
        """Leave one line about the run."""
        with self._lock:
            head, work = self._place(experiment)
            self._pass(work)
            self._say(f"{head} skipped: {why}", style="bold yellow")

    def _place(self, experiment: Experiment) -> tuple[str, float]:
        """What a run of the plan is called, and its work."""
        number, work = next((i, work) for i, (other, work) in enumerate(self._plan, 1) if other == experiment)
        return f"run {number}/{len(self._plan)} {_method(experiment)}, {experiment.data.clients} clients", work

    def _pass(self, work: float) -> None:
        """Count a run as over."""
        self._over, self._spent = self._over + 1, self._spent + work
        self._live.update(self._whole, completed=self._done(), run=f"{self._over}/{len(self._plan)} runs")

    def _total(self) -> float:
        return sum(work for _, work in self._plan)

    def _which(self, run_id: str) -> str:
        """Which run is meant, where several go on."""
        return f"{self._running[run_id].head}: " if len(self._running) > 1 and run_id in self._running else ""

    def _done(self) -> float:
        return self._spent + sum(run.work * run.done for run in self._running.values())

    def _rate(self, run: _Running, row: Row) -> float:
        """Rounds per second of a run, evaluation included; of the first round alone, its training."""
        now, budget = self._clock(), run.experiment.budget
        run.spent += row.gradient_evaluations
        run.done = min(1.0, max(row.round / run.experiment.rounds, run.spent / budget if budget else 0.0))
        if run.warm is None:
            run.warm = (row.round, now)
            return 1 / max(row.wall_seconds, 1e-9)
        first, since = run.warm
        return (row.round - first) / max(now - since, 1e-9)

    def _eta(self, run: _Running, row: Row) -> str:
        """When all is done, at the rate since the first round of all; after that one alone, at that of its training."""
        now, done = self._clock(), self._done()
        if self._warm is None:
            self._warm = (done, now)
            each = row.wall_seconds / max(run.work * run.done, 1e-9)
        else:
            first, since = self._warm
            each = (now - since) / max(done - first, 1e-9)
        return f"ETA {duration((self._total() - done) * each)}"

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
