"""What a run that is continued must have in common with the process that continues it, and its rows as a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fedsam.results.provenance import DATA_FILES, Provenance
from fedsam.results.reading import ResultsReader
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


def resuming_notes(results: ResultsReader, run: str, here: Provenance) -> list[str]:
    """What a user should know who has a run go on: what is other than at its start, and which runs of the experiment are left as they are.

    Args:
        here: Of this process.
    """
    (own,) = results.find([run])
    notes = [
        f"was begun {said} {before!r}, and goes on {said} {now!r}"
        for said, before, now in (("by commit", own.git_commit, here.git_commit), ("on", own.device, here.device))
        if before != now
    ]
    others = results.runs_with_hash(own.config_hash, own.seed, own.dataset)
    for other in others:
        found = differences(other.versions, here.versions)
        if other.id != run and found and other.status not in ("finished", "running"):
            what = "; ".join(f"{name}: {text}" for name, text in found.items())
            notes.append(f"run {other.id} of the same experiment did not finish, and stays as it is ({what})")
    return notes


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
