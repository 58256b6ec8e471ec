"""One run of one way: seconds of its rounds, its CPU time, its memory, all read from outside of its processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from experiments.benchmarks import process_tree
from experiments.benchmarks.ways.task import Task

SAMPLE_SECONDS = 0.1  # between two readings of the memory
SILENT_SECONDS = 900.0  # after which a way that tells of no round has failed
NOT_INHERITED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONSAFEPATH")  # what changes the time or the place of imports
LOG_LINES = 15  # of a failed way, that are shown


class WayError(RuntimeError):
    """A way did not come to its end."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one run took.

    Attributes:
        start_seconds: From the start of the process to the end of the first round.
        round_seconds: Of each round after the first.
        cpu_seconds: User and system time of all processes in these rounds, per client trained.
        memory: The most bytes (PSS) of all processes together in a further round.
        other_load: CPU time of other programs meanwhile, divided by that of all CPUs.
    """

    start_seconds: float
    round_seconds: tuple[float, ...]
    cpu_seconds: float
    memory: int
    other_load: float


def measure(command: Sequence[str], task: Task, *, folder: Path, log: Path, mark: Callable[[int], None] = lambda _: None) -> Measurement:
    """Run a task and measure it.

    Args:
        folder: Working directory, from which Python imports its modules.
        log: File of what it prints.
        mark: Told of each round.

    Raises:
        WayError: It failed; the message has the end of what it printed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    for left in (task.clock, task.weights):  # by the run before
        Path(left).unlink(missing_ok=True)
    with closing(socket.socket(socket.AF_UNIX)) as listener, log.open("wb") as output:
        listener.bind(task.clock)
        listener.listen()
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        run = _Run(process, task, mark)
        try:
            found = run.follow(listener, began)
            if process.wait(SILENT_SECONDS):
                raise WayError
        except (WayError, subprocess.TimeoutExpired, ConnectionError):  # what ends meanwhile closes its end
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            state = "is silent" if process.poll() is None else f"ended with exit code {process.returncode}"
            raise WayError(f"{' '.join(command)} {state}:\n" + "\n".join(lines)) from None
        finally:
            process_tree.end(run.processes if process.poll() is not None else process_tree.tree(process.pid))
    return found


class _Run:
    """A run that is followed.

    Attributes:
        processes: Those that were there at the latest reading.
    """

    def __init__(self, process: subprocess.Popen[bytes], task: Task, mark: Callable[[int], None]) -> None:
        self._process, self._task, self._mark = process, task, mark
        self.processes: list[psutil.Process] = []

    def follow(self, listener: socket.socket, began: float) -> Measurement:
        """The measurement, once the round after those that are timed is over. Raises `WayError` where the process ends before."""
        rounds, readings = self._task.rounds, list[tuple[float, float]]()
        with closing(self._accept(listener)) as clock:
            marks = list[dict[str, Any]]()
            while len(marks) < rounds:
                message = self._receive(clock, SILENT_SECONDS)
                if "round" in message:
                    marks.append(message)
                    self._mark(len(marks))
                if "settled" in message or len(marks) == rounds:
                    readings.append(self._cpu_and_others())
                clock.sendall(b"\n")
            memory = self._largest_memory(clock)
            clock.sendall(b"\n")
        (before, others_before), (after, others_after) = readings
        seconds = tuple(mark["ended"] - mark["began"] for mark in marks[1:])
        there = (marks[-1]["ended"] - marks[1]["began"]) * (psutil.cpu_count() or 1)
        return Measurement(
            start_seconds=marks[0]["ended"] - began,
            round_seconds=seconds,
            cpu_seconds=(after - before) / (self._task.cohort * len(seconds)),
            memory=memory,
            other_load=max(0.0, (others_after - others_before) / there),
        )

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(SAMPLE_SECONDS)
        deadline = time.monotonic() + SILENT_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                clock, _ = listener.accept()
            except TimeoutError:
                continue
            return clock
        raise WayError

    def _receive(self, clock: socket.socket, timeout: float) -> dict[str, Any]:
        """The next message. Raises `WayError` where none comes, and `TimeoutError` where it takes longer than `timeout` seconds."""
        clock.settimeout(timeout)
        try:
            message = clock.recv(4096)
        except TimeoutError:
            if timeout < SILENT_SECONDS:
                raise
            raise WayError from None
        if not message:
            self._process.wait(SILENT_SECONDS)
            raise WayError
        mark: dict[str, Any] = json.loads(message)
        return mark

    def _cpu_and_others(self) -> tuple[float, float]:
        """CPU seconds of the run so far, and those of everything else but this process on the machine."""
        self.processes = process_tree.tree(self._process.pid)
        own = process_tree.cpu_seconds(self.processes)
        return own, process_tree.busy_seconds() - own - process_tree.cpu_seconds([psutil.Process()])

    def _largest_memory(self, clock: socket.socket) -> int:
        largest, deadline = 0, time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            self.processes = process_tree.tree(self._process.pid)
            largest = max(largest, process_tree.memory(self.processes))
            try:
                self._receive(clock, SAMPLE_SECONDS)
            except TimeoutError:
                continue
            return largest
        raise WayError
