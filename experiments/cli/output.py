"""What commands print, how they end, and what they show of runs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from experiments.running import progress

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.running.scheduler import Outcome

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
PATIENCE = 10.0  # seconds


def complain(text: str) -> None:
    """Say what went wrong, in one line on stderr."""
    Console(stderr=True).print(f"fedsam: {text}", style="bold red", markup=False, highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table; in a pipe, where rich assumes 80 columns, as wide as it needs."""
    console = Console()
    if not console.is_terminal:
        wide = console.options.update(max_width=1000)
        console = Console(width=console.measure(table, options=wide).maximum)
    console.print(table)


@contextmanager
def callback(quiet: bool, tensorboard: bool = False) -> Iterator[progress.Callback]:
    """What runs report to: the terminal or nobody, and event files of TensorBoard."""
    with ExitStack() as stack:
        seen: progress.Callback = progress.Callback() if quiet else stack.enter_context(progress.ConsoleCallback(Console(stderr=True)))
        if tensorboard:
            from experiments.running.tensorboard import TensorBoardCallback

            seen = progress.CallbackList(stack.enter_context(TensorBoardCallback()), seen)
        yield seen


def kept(folder: Path) -> AbstractContextManager[object]:
    """As `orderly`; what runs is recorded as interrupted."""
    return orderly(f"interrupted; the finished rounds are kept in {folder / 'fedsam.db'}: see `fedsam runs` and `fedsam report`")


@contextmanager
def orderly(said: str) -> Iterator[list[Callable[[], None]]]:
    """Turn Ctrl-C and SIGTERM into an orderly end: what the block has opened is closed, Ray too, then the process exits.

    More of these signals do not disturb that end, unless it takes long. Gives a list of what is called first, in another thread, to stop
    other threads that the block would wait for.
    """
    halts: list[Callable[[], None]] = []
    begun: list[tuple[int, float]] = []  # signals that were obeyed, and when

    def stop(number: int, frame: object) -> None:
        if not begun or time.monotonic() - begun[-1][1] > PATIENCE:
            begun.append((number, time.monotonic()))
            for halt in halts:
                threading.Thread(target=halt, daemon=True).start()
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield halts
    except KeyboardInterrupt:
        complain(said)
        raise typer.Exit(TERMINATED if begun and begun[0][0] == signal.SIGTERM else INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(
    ids: Sequence[str], folder: Path, out: Path | None = None, *, baseline: str | None = None, target_accuracy: float | None = None
) -> None:
    """Print the leaderboard of runs and write their report to `out`, by default below `folder`.

    Args:
        baseline: The method that the others are compared with; default: the report's choice, as for the accuracy to reach.
    """
    from experiments.reporting.report import leaderboard, write_report
    from fedsam.results.store import Results

    if not ids:
        return
    with Results.open(folder, create=False) as results:
        runs = results.find(ids)
        print_table(leaderboard(results, runs, baseline, target_accuracy))
        typer.echo(f"report: {write_report(results, runs, out or folder / 'reports' / ids[0], baseline, target_accuracy)}")


def end(outcomes: Sequence[Outcome]) -> None:
    """Say which runs failed, and exit with 1 if any did."""
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failures:
        complain(f"run {outcome.run_id or 'not started'} {outcome.status}: {outcome.error}")
    if failures:
        raise typer.Exit(FAILED)
