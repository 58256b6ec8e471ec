"""What a run that is continued must have in common with the process that continues it, and its rows as a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fedsam.results.provenance import DATA_FILES
from fedsam.results.rows import ClientRow, Row

DECISIVE = ("fedsam", "torch", "numpy", DATA_FILES)  # versions that the numbers of a run depend on


def identity(versions: Mapping[str, str]) -> dict[str, str]:
    """Of the versions of a run those that its numbers depend on, hashes of modules and data among them."""
    return {name: version for name, version in versions.items() if name in DECISIVE or version.startswith("sha256:")}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What differs between the versions of a run and those of now, each in words.

    >>> differences({"torch": "2.8.0", "ray": "2"}, {"torch": "2.9.0", "ray": "3"})
    {'torch': "'2.8.0' made the run, and here is '2.9.0'"}
    """
    old, new = identity(before), identity(now)
    return {
        name: f"{old.get(name, 'nothing known')!r} made the run, and here is {new.get(name, 'nothing known')!r}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    }


def row_tree(row: Row) -> dict[str, Any]:
    """A row as plain values, nested."""
    return {name: _plain(value) for name, value in asdict(row).items()}


def row_from_tree(tree: Mapping[str, Any]) -> Row:
    """The row that `row_tree` was given."""
    return Row(**{**tree, "clients": tuple(ClientRow(**client) for client in tree["clients"])})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
