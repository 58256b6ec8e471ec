"""What a command does whose private Ray is lost: Ray would end its process within a minute, without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from experiments.cli.output import FAILED, print_error
from fedsam.grid.ray_start import WhenLost

STARTS = "FEDSAM_STARTS"  # the environment variable that counts them
MOST_STARTS = 5  # of one command, as something may end Ray again and again


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing that the process writes inside the block is seen."""
    streams = {number: os.dup(number) for number in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in streams:
        os.dup2(nowhere, number)
    yield
    sys.stdout.flush()
    sys.stderr.flush()
    for number, stream in streams.items():
        os.dup2(stream, number)


def when_lost(folder: Path, *, restarts: bool) -> WhenLost:
    """Record the runs as interrupted, say so, and start the command again or end it.

    Args:
        folder: Of the results.
        restarts: Whether the command, started again, goes on where it was.
    """

    def lost(name: str, clean: Callable[[], None]) -> None:
        from fedsam.results.store import Results

        why = f"Ray was lost: its {name} has ended"
        with suppress(Exception), Results.open(folder, create=False) as results:  # whatever it is, the process ends
            results.interrupt_own(why)
        Console(stderr=True).show_cursor()  # which live progress hides
        starts = int(os.environ.get(STARTS, "1"))
        again = restarts and starts < MOST_STARTS
        sys.stdout.flush()
        print_error(f"{why}; {'this command is started again' if again else '`fedsam resume` goes on with its runs'}")
        with _silent():  # other threads meet errors of a Ray that is no more
            clean()
        if again:
            os.environ[STARTS] = str(starts + 1)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        os._exit(FAILED)

    return lost
