"""Output, shutdown and exit codes that the commands share."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from fedsam.formatting import literal, printable
from fedsam.grid.process import exempt_from_collection, resume_collection
from fedsam.wording import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.callbacks.callback import Callback
    from experiments.running.scheduler import Outcome

FAILED, USAGE, UNFINISHED, DIVERGED, STORAGE, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 5, 130, 143
SECOND_SIGNAL_SECONDS = 10.0  # after which a second signal interrupts a shutdown that takes long


def print_error(text: str) -> None:
    """Print an error on stderr, without breaking its lines."""
    Console(stderr=True).print(literal(f"fedsam: {text}"), style="bold red", highlight=False, soft_wrap=True)


def print_line(text: str) -> None:
    """Print a line on stdout that may hold text of others, such as names and paths."""
    typer.echo(printable(text))


def check_folder(folder: Path, option: str) -> None:
    """Create a folder to write to. Raises `ConfigError` where it cannot be created or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{option}: '{folder}' is not allowed: must be a folder that can be written ({reason(error)})") from None


def check_file(file: Path, option: str) -> None:
    """Check that a file can be written, without changing what it holds. Raises `ConfigError` where it cannot."""
    try:
        there = file.exists()
        with file.open("ab"):
            pass
        if not there:
            file.unlink()
    except OSError as error:
        raise ConfigError(f"{option}: '{file}' is not allowed: must be a file that can be written ({reason(error)})") from None


def reason(error: OSError) -> str:
    """Why something failed, in the words of the operating system where it has any."""
    return error.strerror or str(error)


def print_warning(text: str) -> None:
    """Print a warning in one line on stderr."""
    Console(stderr=True).print(literal(f"fedsam: {text}"), style="bold yellow", highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table, at full width where the output is no terminal and rich assumes 80 columns."""
    console = Console()
    if not console.is_terminal:
        wide = console.options.update(max_width=1000)
        console = Console(width=console.measure(table, options=wide).maximum)
    console.print(table)


@contextmanager
def progress_callback(quiet: bool, tensorboard: bool = False) -> Iterator[Callback]:
    """The callback that keeps the plan, shows progress on the terminal, unless quiet, and writes TensorBoard event files, if asked to.

    At the end of the block garbage is collected again, where it was not from `actor_groups` on.
    """
    from experiments.callbacks.callback import CallbackList
    from experiments.callbacks.progress import ConsoleCallback
    from experiments.callbacks.recorded_plan import PlanRecorder

    with ExitStack() as stack:
        stack.callback(resume_collection)
        callbacks: list[Callback] = [PlanRecorder()]
        if tensorboard:
            from experiments.callbacks.tensorboard import TensorBoardCallback

            callbacks.append(stack.enter_context(TensorBoardCallback(unnamed=True)))
        if not quiet:
            callbacks.append(stack.enter_context(ConsoleCallback(Console(stderr=True))))
        yield CallbackList(*callbacks)


def graceful_shutdown_of_runs(folder: Path) -> AbstractContextManager[object]:
    """`graceful_shutdown` with a message that tells where the finished rounds are; running runs are recorded as interrupted."""
    return graceful_shutdown(
        f"interrupted; the finished rounds are kept in {folder / 'fedsam.db'}: see `fedsam runs`; `fedsam resume` goes on"
    )


@contextmanager
def graceful_shutdown(message: str) -> Iterator[list[Callable[[], None]]]:
    """On Ctrl-C, SIGTERM or SIGHUP, close everything that the block has opened, Ray included, print `message` and exit.

    A further signal is ignored for `SECOND_SIGNAL_SECONDS`, and SIGHUP altogether where the process was started so (`nohup`).

    Yields:
        A list of functions that a signal calls first, each in a thread of its own, to stop threads that the block would wait for.
    """
    stop_functions: list[Callable[[], None]] = []
    handled: list[tuple[int, float]] = []  # (signal, time) of each that was not ignored

    def stop(number: int, frame: object) -> None:
        if not handled or time.monotonic() - handled[-1][1] > SECOND_SIGNAL_SECONDS:
            handled.append((number, time.monotonic()))
            if number == signal.SIGHUP:
                _leave_closed_terminal()
            for function in stop_functions:
                threading.Thread(target=function, daemon=True).start()
            raise KeyboardInterrupt

    ignored = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else []
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if number not in ignored]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop_functions
    except KeyboardInterrupt:
        print_error(message)
        raise typer.Exit(INTERRUPTED if not handled or handled[0][0] == signal.SIGINT else TERMINATED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_closed_terminal() -> None:
    """Send what this process still writes to a terminal that is closed to nowhere: it would be an error, in the middle of a shutdown."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)


def report_runs(
    ids: Sequence[str], folder: Path, out: Path | None = None, *, baseline: str | None = None, target_accuracy: float | None = None
) -> bool:
    """Print the leaderboard of runs and write their report to `out`, by default below `folder`; whether all of it could be written.

    What cannot be written is said on stderr: it changes nothing about runs that have finished.

    Args:
        baseline: The method that the others are compared with; default: as of `compare_runs`, also for the target accuracy.
    """
    from experiments.reporting.console import leaderboard_table
    from experiments.reporting.report import ReportError, write_report
    from fedsam.results.store import Results

    if not ids:
        return True
    target = out or folder / "reports" / ids[0]
    try:
        with Results.open(folder, create=False) as results:
            runs = results.find(ids)
            print_table(leaderboard_table(results, runs, baseline, target_accuracy))
            print_line(f"report: {write_report(results, runs, target, baseline, target_accuracy)}")
        return True
    except ConfigError:
        raise
    except ReportError as error:
        print_line(f"report: {error.path}")
        print_error(f"report: {error}")
    except OSError as error:
        print_error(f"report: '{target}' cannot be written ({reason(error)})")
    except Exception as error:
        print_error(f"report: failed ({type(error).__name__}: {error}); the runs are kept: {', '.join(ids)}")
    return False


def report_outcomes(ids: Sequence[str], folder: Path, *, baseline: str | None = None, target_accuracy: float | None = None) -> None:
    """As `report_runs`, of runs that were just made: a report that cannot be made does not hide how they ended."""
    exempt_from_collection()
    try:
        report_runs(ids, folder, baseline=baseline, target_accuracy=target_accuracy)
    except ConfigError as error:
        print_error(f"report: {error}")


def exit_on_failure(outcomes: Sequence[Outcome]) -> None:
    """Print the errors of failed runs, and exit with `STORAGE` if one could not be written, else with `FAILED` if there are any."""
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failures:
        what = f"run {outcome.run_id} failed" if outcome.run_id else "a run could not be started"
        print_error(f"{what}: {outcome.error}")
    if failures:
        raise typer.Exit(STORAGE if any(outcome.storage for outcome in failures) else FAILED)


def exit_on_divergence(outcomes: Sequence[Outcome]) -> None:
    """Print where runs diverged, and exit with `DIVERGED` if any did."""
    diverged = [outcome for outcome in outcomes if outcome.status == "diverged"]
    for outcome in diverged:
        print_error(f"run {outcome.run_id} diverged: {outcome.error}")
    if diverged:
        raise typer.Exit(DIVERGED)


def exit_on_unfinished(ids: Sequence[str | None], folder: Path) -> None:
    """Name the runs that were left to another process and have not ended, and exit with `UNFINISHED` if there are any."""
    from fedsam.results.store import Results

    with Results.open(folder, create=False) as results:
        left = [run for run in results.find([run_id for run_id in ids if run_id]) if run.status in ("running", "interrupted")]
    for run in left:
        state = "is at work" if run.status == "running" else "was interrupted"
        print_error(f"run {run.id} {state} on {run.host}: start this again later, or with --restart if its process there is gone")
    if left:
        raise typer.Exit(UNFINISHED)
