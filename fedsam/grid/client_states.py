"""Where the clients' states are: references to what the object store holds, by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class ClientStates:
    """The latest state of each client.

    A state stays where the actor stored it, until its client has a new one; that of an actor on another machine is copied to this one,
    so that the loss of a machine loses no state.

    Args:
        copy: Copies a state to this machine, and gives the reference to the copy.
    """

    def __init__(self, copy: Callable[[Any], Any]) -> None:
        self._copy = copy
        self._references: dict[int, Any] = {}

    def get(self, node: int) -> Any:
        """The reference to a client's state; None where it has none."""
        return self._references.get(node)

    def update(self, nodes: Sequence[int], references: Sequence[Any], is_new: Sequence[bool], *, away: bool) -> None:
        """Take what a call left: all of its new states, or none where a copy cannot be made, so that the call can be repeated.

        Args:
            nodes: Of the call's messages.
            references: To the state after each message.
            is_new: Whether that is another state than before.
            away: Whether the actor is on another machine.
        """
        found = zip(nodes, references, is_new, strict=True)
        self._references |= {node: self._copy(state) if away else state for node, state, new in found if new}
