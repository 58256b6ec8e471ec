"""Official datasets as one file each in `cache_folder`, made of files that were verified, and mapped into memory by whoever reads it.

The file knows size and time of change of each official file, and its own: whatever was changed since is read and verified again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fedsam.config import ConfigError
from fedsam.data.dataset import Dataset, Images
from fedsam.places import cache_folder

VERSION = 3  # of what the file holds: images (N, H, W, C)
FIELDS = ("name", "classes", "mean", "std", "augment", "class_names", "files")
State = Mapping[str, list[int]]  # path below the root -> bytes, and time of change in ns


def state(root: Path, files: Iterable[str]) -> State:
    """Size and time of change of files below `root`. Raises `OSError` where one is missing."""
    stats = {file: (root / file).stat() for file in files}
    return {file: [stat.st_size, stat.st_mtime_ns] for file, stat in stats.items()}


def find(name: str, root: Path) -> Dataset | None:
    """The dataset that was made of the official files below `root`; None where there is none, or something has changed since."""
    try:
        path = _path(name, root)
        with safe_open(path, framework="pt") as file:
            known = json.loads(file.metadata()["dataset"])
            if known["version"] != VERSION or path.stat().st_mtime != known["changed"] or state(root, known["files"]) != known["files"]:
                return None
            x, y, test_x, test_y = (file.get_tensor(key) for key in ("train.x", "train.y", "test.x", "test.y"))
    except (OSError, ConfigError, SafetensorError, TypeError, KeyError, ValueError):
        return None
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in known["fields"].items()}
    return Dataset(train=Images(x.movedim(-1, 1), y), test=Images(test_x.movedim(-1, 1), test_y), **values)


def keep(dataset: Dataset, root: Path, files: State) -> None:
    """Write the dataset's file, unless there is no place for it.

    Args:
        files: Of the official files, before they were verified.
    """
    changed = int(time.time())  # whole seconds, which every file system keeps and hardly a later change has
    fields = {key: getattr(dataset, key) for key in FIELDS}
    known = json.dumps({"version": VERSION, "changed": changed, "files": files, "fields": fields})
    train, test = ({"x": part.x.movedim(1, -1).contiguous(), "y": part.y} for part in (dataset.train, dataset.test))
    tensors = {**{f"train.{key}": tensor for key, tensor in train.items()}, **{f"test.{key}": tensor for key, tensor in test.items()}}
    with contextlib.suppress(OSError, ConfigError, SafetensorError):
        path = _path(dataset.name, root)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dataset-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            save_file(tensors, draft, {"dataset": known})
            with draft.open("rb") as file:
                os.fsync(file.fileno())  # or after a power cut the file could have its size and no content
            os.utime(draft, (changed, changed))
            draft.replace(path)


def _path(name: str, root: Path) -> Path:
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    return cache_folder() / "datasets" / f"{name}-{place}.safetensors"
