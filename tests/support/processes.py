"""Which processes there are below another, and whether they live: what an orderly end leaves none of."""

from __future__ import annotations

import contextlib

import psutil

HANG = 600.0  # seconds after which what is waited for will never come; no test takes so long, however busy the machine is


def descendants(pid: int) -> set[int]:
    """All processes below `pid`, Ray's daemons included; none once it is gone."""
    try:
        return {process.pid for process in psutil.Process(pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def names(pid: int) -> set[str]:
    """The names of all processes below `pid`."""
    found = set()
    for below in descendants(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(psutil.Process(below).name())
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
