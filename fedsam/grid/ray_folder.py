"""The folder of a private Ray, which is removed with it, or by the next one where its owner was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsam.grid.ray_start import RayStartError, end_processes, processes

PREFIX = "fedsam-ray-"
OWNER = "owner"  # a file that the owner holds a lock on, which ends with its process, however that ends


@contextmanager
def ray_folder() -> Iterator[str]:
    """A new folder for the length of a block, after those of dead owners are removed. It stays where Ray did not come up, with its logs."""
    # Ray's socket paths add about 64 characters, and a socket path may have 107.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 22 else "/tmp"
    remove_left_over(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    draft = folder / f".{OWNER}"
    with draft.open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        draft.rename(folder / OWNER)  # whoever sees it finds it locked
        try:
            yield str(folder)
        except RayStartError:
            (folder / OWNER).unlink()
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_over(parent: Path) -> None:
    """End the Rays of dead owners whose folders are in `parent`, and remove the folders; those of other users are left alone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is another's, or is being removed
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / OWNER).open("r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it lives
                end_processes(processes(str(folder)))
                shutil.rmtree(folder, ignore_errors=True)
