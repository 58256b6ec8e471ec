"""CPU time of commands that only name, list or check things."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fedsam.results.store import Results

COMMANDS = ("--help", "list optimizers", "runs", "run quickstart --print-config")


def cpu_seconds(arguments: str, folder: Path) -> float:
    """User and system seconds of a fedsam command in a working directory. Raises `CalledProcessError` where it fails."""
    command = [sys.executable, "-m", "fedsam", *arguments.split()]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime


def measured(folder: Path, repeats: int) -> Iterator[tuple[str, float]]:
    """Each command and the median of its CPU seconds, in a working directory that gets an empty results database.

    A first run, which compiles modules, does not count.
    """
    with Results.open(folder / "runs"):
        pass
    for arguments in COMMANDS:
        cpu_seconds(arguments, folder)
        yield arguments, statistics.median(cpu_seconds(arguments, folder) for _ in range(repeats))
