"""Memory and disk that a Ray session takes while a block runs. Linux only: processes are read from /proc."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most memory, in bytes, that the largest process of a kind had."""

    resident: int = 0
    private: int = 0


class MemorySampler:
    """Samples this process, its descendants, the object store and the spill files, five times a second, while a block runs.

    Args:
        session: Folder of the Ray session.
        actors: Process ids of the actors.
    """

    def __init__(self, session: Path, actors: Sequence[int]) -> None:
        self._session, self._actors = session, frozenset(actors)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample_on, daemon=True)
        self.peaks: dict[str, Peak] = {}
        self.private = self.store = self.disk = 0

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def wait(self) -> bool:
        """Let the time between two samples pass; whether the block is over."""
        return self._over.wait(0.2)

    def on_disk(self) -> int:
        """Bytes in spill files now."""
        return sum(_size(file) for file in self._session.glob("ray_spilled_objects_*/*"))

    def _sample_on(self) -> None:
        while not self.wait():
            readings = [(self._kind(pid), _memory(pid)) for pid in (os.getpid(), *_descendants(os.getpid()))]
            for kind, reading in readings:
                peak = self.peaks.get(kind, Peak())
                self.peaks[kind] = Peak(resident=max(peak.resident, reading.resident), private=max(peak.private, reading.private))
            self.private = max(self.private, sum(reading.private for _, reading in readings))
            self.store = max(self.store, int(store_stats().object_store_bytes_used))
            self.disk = max(self.disk, self.on_disk())

    def _kind(self, pid: int) -> str:
        if pid == os.getpid():
            return "driver"
        return "actor" if pid in self._actors else "Ray's own"


def store_stats() -> Any:
    """Ray's statistics of the object store and of spilling; Ray gives them to its command line or to its private functions only."""
    from ray._private import internal_api, state

    ask: Any = internal_api.get_memory_info_reply  # Ray leaves it untyped
    return ask(state.state).store_stats


def session_folder() -> Path:
    """Folder of the running Ray session: logs, sockets, spill files."""
    from ray._private import worker

    node: Any = worker._global_node  # typed as None, which it is before Ray starts
    return Path(node.get_session_dir_path())


def _descendants(pid: int) -> list[int]:
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in file.read_text().split()]
        except OSError:  # the thread or process is gone
            continue
        found += [pid for child in children for pid in (child, *_descendants(child))]
    return found


def _memory(pid: int) -> Peak:
    """Peak resident and present private bytes of a process; zeros if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return Peak()
    fields = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":", 1) for line in lines) if value.endswith(" kB")}
    return Peak(resident=fields.get("VmHWM", 0), private=fields.get("RssAnon", 0))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # it was deleted just now
        return 0
