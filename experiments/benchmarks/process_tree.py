"""CPU time and memory of a process and all below it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress

import psutil

END_SECONDS = 15.0  # for processes to end after an interrupt


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty where it has ended."""
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds of processes, and of those that they started and that have ended."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):  # it has ended
            total += sum(process.cpu_times()[:4])
    return total


def busy_seconds() -> float:
    """CPU seconds of all processes of this machine, and those that a hypervisor took from it."""
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for name, seconds in times.items() if name not in ("idle", "iowait", "guest", "guest_nice")))


def memory(processes: Sequence[psutil.Process]) -> int:
    """Bytes of memory of processes; a page that several share is divided among them (PSS)."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def end(processes: Sequence[psutil.Process]) -> None:
    """End processes, the first of them gently: it is interrupted, and has time to end the others."""
    for process in processes[:1]:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGINT)
            process.wait(END_SECONDS)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, END_SECONDS)
