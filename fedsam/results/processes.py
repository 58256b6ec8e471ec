"""Whether the process of a run is alive: on this machine by its id, on another one by its heartbeat in the results."""

from __future__ import annotations

import os
import platform
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from fedsam.results.database import connect
from fedsam.wording import ConfigError

HEARTBEAT_SECONDS = 30.0  # between two heartbeats of a run
SILENCE_SECONDS = 300.0  # without one, after which the process of a run is taken to have ended; clocks of machines may differ by less


@contextmanager
def heartbeat(database: Path, run: str) -> Iterator[None]:
    """Have a thread write every `HEARTBEAT_SECONDS` that the process of a run is alive, while the block is executed."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_SECONDS):
            with suppress(sqlite3.Error, ConfigError), closing(connect(database)) as connection:  # the run's own writes tell what is wrong
                connection.execute("UPDATE runs SET heartbeat = ? WHERE id = ?", (time.time(), run))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def process_ended(host: str, pid: int, start_time: str, heartbeat: float | None = None) -> bool:
    """Whether the process that started at `start_time` has ended; False where that is unknown.

    Args:
        heartbeat: Seconds since the epoch when the process was last known to be alive, which tells on another host.
    """
    if host != platform.node() or os.name != "posix":
        return heartbeat is not None and time.time() - heartbeat > SILENCE_SECONDS
    if start_time:
        return process_start_time(pid) != start_time
    try:
        os.kill(pid, 0)  # signal 0 only checks
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def process_start_time(pid: int) -> str:
    """Start time of a process in clock ticks since boot, since process ids are reused; empty if it has ended or there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
