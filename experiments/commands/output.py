"""What commands print, how they end, and what they show of runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from experiments import progress

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.compare import Outcome

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


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
def watch(quiet: bool, tensorboard: bool = False) -> Iterator[progress.Watch]:
    """What runs report to: the terminal or nobody, and event files of TensorBoard."""
    with ExitStack() as stack:
        seen: progress.Watch = progress.Quiet() if quiet else stack.enter_context(progress.Console(Console(stderr=True)))
        if tensorboard:
            from experiments.tensorboard import Events

            seen = progress.Tee(stack.enter_context(Events()), seen)
        yield seen


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an orderly end: what runs is recorded as interrupted, Ray is stopped, then the process exits."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        complain(f"interrupted; the finished rounds are kept in {folder / 'fedsam.db'}: see `fedsam runs` and `fedsam report`")
        raise typer.Exit(TERMINATED if signal.SIGTERM in stopped.args else INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def show(ids: Sequence[str], folder: Path, target: Path | None) -> None:
    """Print the leaderboard of runs and write their report, by default below `folder`."""
    from experiments.report import leaderboard, write_report
    from fedsam.results import Results

    if not ids:
        return
    with Results.open(folder, create=False) as results:
        runs = results.find(ids)
        print_table(leaderboard(results, runs))
        typer.echo(f"report: {write_report(results, runs, target or folder / 'reports' / ids[0])}")


def end(outcomes: Sequence[Outcome]) -> None:
    """Say which runs failed, and exit with 1 if any did."""
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failures:
        complain(f"run {outcome.run_id or 'not started'} {outcome.status}: {outcome.error}")
    if failures:
        raise typer.Exit(FAILED)
