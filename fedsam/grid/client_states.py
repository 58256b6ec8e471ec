"""Where the clients' states are: references to what the object store holds, or the states themselves, by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flwr.app import RecordDict


def _same(state: Any) -> Any:
    return state


class ClientStates(Mapping[int, Any]):
    """A reference to the latest state of each client that has one.

    A state stays where the actor stored it, until its client has a new one; that of an actor on another machine is copied to this one,
    so that the loss of a machine loses no state.

    A checkpoint is of the end of a round, `mark`, although clients may have trained on since.

    Args:
        copy: Copies a state to this machine, and gives the reference to the copy.
        load: The state of a reference.
        store: The reference of a state.
    """

    def __init__(
        self,
        copy: Callable[[Any], Any] = _same,
        load: Callable[[Any], RecordDict] = _same,
        store: Callable[[RecordDict], Any] = _same,
    ) -> None:
        self._copy, self._load, self._store = copy, load, store
        self._references: dict[int, Any] = {}
        self._before: dict[int, Any] = {}  # of nodes whose state is new since the mark, what they had then; None: nothing
        self._unsaved: set[int] = set()

    def __getitem__(self, node: int) -> Any:
        return self._references[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)

    def update(self, nodes: Sequence[int], references: Sequence[Any], is_new: Sequence[bool], *, away: bool = False) -> None:
        """Take what a call left: all of its new states, or none where a copy cannot be made, so that the call can be repeated.

        Args:
            nodes: Of the call's messages.
            references: To the state after each message.
            is_new: Whether that is another state than before.
            away: Whether the actor is on another machine.
        """
        found = zip(nodes, references, is_new, strict=True)
        changed = {node: self._copy(state) if away else state for node, state, new in found if new}
        self._before = {node: self._references.get(node) for node in changed} | self._before
        self._references |= changed

    def mark(self) -> None:
        """Have `unsaved` tell of the states as they are now."""
        self._unsaved |= self._before.keys()
        self._before = {}

    def unsaved(self) -> Iterator[tuple[int, RecordDict]]:
        """Node and state, at the mark, of those that were new then since `saved` was called, one at a time."""
        for node in sorted(self._unsaved):
            yield node, self._load(self._before.get(node, self._references[node]))

    def saved(self) -> None:
        """Note that the states at the mark are kept elsewhere."""
        self._unsaved = set()

    def restore(self, states: Iterable[tuple[int, RecordDict]]) -> None:
        """Take kept states, by node."""
        self._references |= {node: self._store(state) for node, state in states}
