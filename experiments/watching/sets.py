"""Sets of runs that are looked at together: those that one command made, and those that can be compared."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from experiments.watching.index import IndexedRun
from fedsam.formatting import printable

Kind = Literal["command", "alike"]


@dataclass(frozen=True)
class RunSet:
    """Runs of one command, or alike runs of all commands.

    Attributes:
        key: Short, and the same at each start of the page.
        kind: What they share.
        title: The command, or the dataset and length.
        runs: Oldest first.
    """

    key: str
    kind: Kind
    title: str
    runs: tuple[IndexedRun, ...]

    @property
    def statuses(self) -> Mapping[str, int]:
        """Number of runs by status."""
        return Counter(run.status for run in self.runs)

    @property
    def is_at_work(self) -> bool:
        """Whether a process is at one of them."""
        return any(run.is_running for run in self.runs)


def run_sets(runs: Iterable[IndexedRun], kind: Kind) -> dict[str, RunSet]:
    """The sets of a kind by key, those with the newest runs first."""
    found: dict[str, list[IndexedRun]] = {}
    for run in sorted(runs, key=lambda run: run.row):
        found.setdefault(getattr(run, kind), []).append(run)
    newest = sorted(found.items(), key=lambda item: -item[1][-1].row)
    every = (RunSet(_key(kind, text), kind, printable(text), tuple(each)) for text, each in newest)
    return {one.key: one for one in every}


def kind_of(key: str) -> Kind | None:
    """The kind of the set with a key; None where there is no such kind."""
    return next((kind for kind in get_args(Kind) if key.startswith(f"{kind}-")), None)


def _key(kind: Kind, text: str) -> str:
    return f"{kind}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]}"
