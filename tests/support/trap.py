"""A pickle that does something when it is read."""

from __future__ import annotations

import pickle
from pathlib import Path


class Trap:
    """Creates a file when its pickle is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


def sprung(marker: Path) -> bool:
    """Whether a trap was read since the last time."""
    found = marker.exists()
    marker.unlink(missing_ok=True)
    return found


def trap(marker: Path, content: object = None) -> bytes:
    """A pickle of `content` with a trap in it; that it works is seen before."""
    blob = pickle.dumps({"data": content, "trap": Trap(marker)}, protocol=3)
    pickle.loads(blob)["trap"].close()
    assert sprung(marker)
    return blob
