"""Which processes have a file open, for messages about one that is locked."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def held_by(path: Path) -> str:
    """Who may hold a results file, to go on a sentence with: other processes of this machine and user that have it open.

    Where none is found, or there is no /proc, it is said what else it may be.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*") if path.exists() else ():
        if int(folder.name) != os.getpid():
            with suppress(OSError):  # it has ended, or is another user's
                if any(_is_of(entry, path) for entry in (folder / "fd").iterdir()):
                    found.append(f"process {folder.name} ({(folder / 'comm').read_text().strip()})")
    if found:
        return f" by {', '.join(found[:3])}"
    return ", by a process of another user or machine or by a thread of this one"


def _is_of(entry: Path, path: Path) -> bool:
    """Whether a file descriptor is of the file, its log or its shared memory."""
    with suppress(OSError):
        return entry.readlink().as_posix() in (f"{path.resolve()}{suffix}" for suffix in ("", "-wal", "-shm", "-journal"))
    return False
