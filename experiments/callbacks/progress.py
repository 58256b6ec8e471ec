"""The callback that shows progress: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import rich.console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from experiments.callbacks.callback import Callback
from fedsam.formatting import duration, literal, plural, printable

if TYPE_CHECKING:
    from fedsam.config import Experiment
    from fedsam.results.rows import Row

WIDE = 140  # columns of a terminal from which a live line says everything


@dataclass
class _RunProgress:
    """The progress of one run.

    Attributes:
        title: Its number in the plan, method and client count.
        work: Its work in the unit of the plan.
        started: Clock time.
        task: Its line in the live display.
        rows: Its rounds so far, without their clients.
        last: Text of its last evaluation.
        gradient_evaluations: So far.
        done: Fraction of the run.
        first_round: Number and clock time of its first reported round.
        checkpoints: Seconds that each of its checkpoints took.
    """

    experiment: Experiment
    title: str
    work: float
    started: float
    task: TaskID
    rows: list[Row] = field(default_factory=list)
    last: str = "no round"
    gradient_evaluations: int = 0
    done: float = 0.0
    first_round: tuple[int, float] | None = None
    checkpoints: list[float] = field(default_factory=list)


class ConsoleCallback(Callback):
    """Prints progress to a console; a context manager that restores the terminal, also after an error.

    On a terminal, each run has a live line with a bar, and several runs have one more for all; elsewhere each round is a plain line.
    The estimated time of arrival (ETA) is that of the whole plan at the rate since the first round, which warms up and does not count.
    """

    def __init__(self, console: rich.console.Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._lock = threading.RLock()
        self._bar = 20 if console.width >= WIDE else 6  # columns
        self._plan: list[tuple[Experiment, float]] = []  # with the work of each run: estimated seconds, or else rounds
        self._ended, self._ended_work = 0, 0.0  # number and work of the runs that have ended
        self._running: dict[str, _RunProgress] = {}  # by run id
        self._trials: dict[str, str] = {}  # titles of trials of settings, by experiment
        self._first_round: tuple[float, float] | None = None  # work done and clock time after the first round of any run
        self._live = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[run]}", markup=False),
            BarColumn(bar_width=self._bar),
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
        """Print the number of runs and rounds, and start over."""
        with self._lock:
            rounds = [experiment.rounds for experiment in experiments]
            self._plan = list(zip(experiments, seconds or map(float, rounds), strict=True))
            self._ended, self._ended_work, self._first_round = 0, 0.0, None
            limit = "at most " if any(experiment.budget for experiment in experiments) else ""
            self._print(f"{plural(len(rounds), 'run')}, {limit}{plural(sum(rounds), 'round')}")
            self._live.reset(self._whole, total=self._total(), description="starting", run="", visible=True)

    def phase(self, text: str, run_id: str | None = None) -> None:
        """Show what begins in the line of the run, or else of the plan; without a terminal, only what begins before the first run."""
        with self._lock:
            if not self._console.is_terminal and run_id is None:
                self._print(text)
            self._live.update(self._running[run_id].task if run_id else self._whole, description=text)

    def trial(self, experiment: Experiment, title: str) -> None:
        """Keep the title for the run."""
        with self._lock:
            self._trials[experiment.dumps()] = title

    def started(self, run_id: str, experiment: Experiment) -> None:
        """Add a line for the run."""
        with self._lock:
            several, (title, work) = len(self._plan) > 1, self._title_and_work(experiment)
            if not self._console.is_terminal:
                self._print(f"{title}, seed {experiment.seed} ({run_id})")
            shown = f"{title}, seed {experiment.seed}" if several else printable(_method(experiment))
            task = self._live.add_task("starting", total=1.0, run=self._fitted(shown, several))
            self._live.update(self._whole, visible=several)
            self._running[run_id] = _RunProgress(experiment, title, work, self._clock(), task)

    def resumed(self, run_id: str, rows: Sequence[Row]) -> None:
        """Count the rounds that there are, and say after which one the run goes on."""
        with self._lock:
            run = self._running[run_id]
            run.rows += [replace(row, clients=()) for row in rows]
            run.gradient_evaluations += sum(row.gradient_evaluations for row in rows)
            self._print(f"{self._prefix(run_id)}goes on after round {len(rows) + 1}, whose evaluation is made again")

    def checkpointed(self, run_id: str, round: int, seconds: float) -> None:
        """Count the time."""
        with self._lock:
            self._running[run_id].checkpoints.append(seconds)

    def warn(self, run_id: str, text: str) -> None:
        """Print the warning in a line of its own."""
        with self._lock:
            self._print(f"{self._prefix(run_id)}{text}", style="bold yellow")

    def round(self, row: Row) -> None:
        """Show the round: cohort, accuracy and loss where they were measured, divergence, rounds per second and ETA."""
        from fedsam.results.final import divergence

        with self._lock:
            run = self._running[row.run]
            rate, eta = self._rate(run, row), self._eta(run, row)
            found = divergence(row)
            if found and not any(map(divergence, run.rows)):
                self._print(f"{self._prefix(row.run)}diverged in round {row.round}: {found}", style="bold red")
            run.rows.append(replace(row, clients=()))
            run.last = f"diverged ({found})" if found else _measures(row)
            budget, per_second = run.experiment.budget, f"{rate:.2g} rounds/s"
            share = f" budget {100 * run.gradient_evaluations / budget:.0f} %" if budget else ""
            text = f"round {row.round}/{run.experiment.rounds}{share} cohort {row.cohort} {run.last} {per_second}"
            if not self._console.is_terminal:
                self._print(f"{self._prefix(row.run)}{text} {eta}")
            several = len(self._plan) > 1
            if self._console.width < WIDE:
                share = f" ({100 * run.gradient_evaluations / budget:.0f} %)" if budget else ""
                text = f"{row.round}/{run.experiment.rounds}{share} {'diverged' if found else run.last} {per_second}"
            self._live.update(run.task, completed=run.done, description=text if several else f"{text} {eta}")
            self._live.update(self._whole, completed=self._done(), run=f"{self._ended}/{len(self._plan)} runs", description=eta)

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """Replace the live line of the run by one that stays."""
        with self._lock:
            run = self._running.pop(run_id)
            self._live.remove_task(run.task)
            self._end(run.work)
            passed = self._clock() - run.started
            text = f"{run.title} {status} after {duration(passed)}: {error or _outcome(run)}{_checkpoint_cost(run, passed)}"
            self._print(text, style="" if status in ("finished", "pruned") else "bold red")

    def skipped(self, experiment: Experiment, why: str) -> None:
        """Replace the live line of the run by one that stays."""
        with self._lock:
            title, work = self._title_and_work(experiment)
            self._end(work)
            self._print(f"{title} skipped: {why}", style="bold yellow")

    def _title_and_work(self, experiment: Experiment) -> tuple[str, float]:
        """Title and work of a run of the plan."""
        if (trial := self._trials.get(experiment.dumps())) is not None:
            return printable(trial), float(experiment.rounds)
        number, work = next((i, work) for i, (other, work) in enumerate(self._plan, 1) if other == experiment)
        return printable(f"run {number}/{len(self._plan)} {_method(experiment)}, {experiment.data.clients} clients"), work

    def _fitted(self, title: str, several: bool) -> str:
        """A title as long as the longest description of a live line leaves room for."""
        longest = (78 if self._console.width >= WIDE else 56) - (14 if several else 0)
        text = Text(title)
        text.truncate(max(8, self._console.width - self._bar - 5 - longest), overflow="ellipsis")
        return text.plain

    def _end(self, work: float) -> None:
        """Count a run as ended."""
        self._ended, self._ended_work = self._ended + 1, self._ended_work + work
        self._live.update(self._whole, completed=self._done(), run=f"{self._ended}/{len(self._plan)} runs")

    def _total(self) -> float:
        return sum(work for _, work in self._plan)

    def _prefix(self, run_id: str) -> str:
        """The title of a run where several are running, to begin a line with."""
        return f"{self._running[run_id].title}: " if len(self._running) > 1 and run_id in self._running else ""

    def _done(self) -> float:
        return self._ended_work + sum(run.work * run.done for run in self._running.values())

    def _rate(self, run: _RunProgress, row: Row) -> float:
        """Rounds per second of a run since its first round, evaluation included; after the first round, that of its training."""
        now, budget = self._clock(), run.experiment.budget
        run.gradient_evaluations += row.gradient_evaluations
        run.done = min(1.0, max(row.round / run.experiment.rounds, run.gradient_evaluations / budget if budget else 0.0))
        if run.first_round is None:
            run.first_round = (row.round, now)
            return 1 / max(row.wall_seconds, 1e-9)
        first, since = run.first_round
        return (row.round - first) / max(now - since, 1e-9)

    def _eta(self, run: _RunProgress, row: Row) -> str:
        """Time until the plan is done at the rate since the first round of any run; after that round, at the rate of its training."""
        now, done = self._clock(), self._done()
        if self._first_round is None:
            self._first_round = (done, now)
            each = row.wall_seconds / max(run.work * run.done, 1e-9)
        else:
            first, since = self._first_round
            each = (now - since) / max(done - first, 1e-9)
        return f"ETA {duration((self._total() - done) * each)}"

    def _print(self, text: str, style: str = "") -> None:
        # soft_wrap keeps a line of a log in one piece.
        self._live.console.print(literal(text), style=style, highlight=False, soft_wrap=True)


@contextmanager
def shown(callback: Callback | None) -> Iterator[Callback]:
    """The callback of a call from Python; by default one that shows progress in a terminal or notebook, and else nothing."""
    console = rich.console.Console(stderr=True)
    if callback is not None:
        yield callback
    elif console.is_jupyter:  # the live display would need ipywidgets
        with ConsoleCallback(rich.console.Console(file=sys.stdout, force_jupyter=False, force_terminal=False, width=WIDE)) as lines:
            yield lines
    elif console.is_terminal:
        with ConsoleCallback(console) as live:
            yield live
    else:
        yield Callback()


def _method(experiment: Experiment) -> str:
    components = (experiment.client.optimizer, experiment.client.correction, experiment.server.strategy)
    return experiment.name or experiment.method or " x ".join(component.name for component in components)


def _outcome(run: _RunProgress) -> str:
    """What a finished run came to: its final accuracy and loss, and divergence."""
    from fedsam.results.final import diverged_round, final_measures, is_evaluated

    final, since = final_measures(run.rows, run.experiment.measure.last), diverged_round(run.rows)
    figures = _figures(final)
    if not figures:
        return run.last
    evaluations = min(run.experiment.measure.last, sum(map(is_evaluated, run.rows)))
    mean = f", mean of the last {evaluations} evaluations" if evaluations > 1 else ""
    diverged = f"diverged in round {since}, " if since is not None else ""
    return f"{diverged}final {figures}{mean}"


def _checkpoint_cost(run: _RunProgress, passed: float) -> str:
    """What the run's checkpoints took, in `passed` seconds."""
    took = sum(run.checkpoints)
    return f"; {plural(len(run.checkpoints), 'checkpoint')}: {took:.2g} s, {100 * took / passed:.1f} %" if run.checkpoints else ""


def _measures(row: Row) -> str:
    return _figures(row.measures) or f"train loss {row.train_loss:.3g}"


def _figures(measures: Mapping[str, float]) -> str:
    """Accuracy and loss on the test set, and accuracy on what is held out for validation, as far as they were measured."""
    validated = f"validation {100 * measures['validation_accuracy']:.1f} %" if "validation_accuracy" in measures else ""
    if "test_accuracy" not in measures:
        return validated
    return f"acc {100 * measures['test_accuracy']:.1f} % loss {measures['test_loss']:.3g}{validated and f' ({validated})'}"
