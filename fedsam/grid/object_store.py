"""What Ray's object store holds: array records, each once, and the clients' states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, Message


def store_records(messages: Sequence[Message], stored: dict[int, Any]) -> None:
    """Put each distinct array record that is not `stored` yet, by the record's identity, into the object store."""
    import ray

    records = {id(r): r for m in messages for r in m.content.values() if isinstance(r, ArrayRecord)}
    stored |= {key: ray.put(record) for key, record in records.items() if key not in stored}


def references(messages: Sequence[Message], stored: Mapping[int, Any]) -> list[dict[str, Any]]:
    """Each message's content with references in place of records that are stored; one dict for messages that share their content."""
    contents = {id(message.content): message.content for message in messages}
    found = {key: {name: stored.get(id(r), r) for name, r in content.items()} for key, content in contents.items()}
    return [found[id(message.content)] for message in messages]


def copy(state: Any) -> Any:
    """A copy of an object of another machine in this one's object store."""
    return put(load(state))


def load(state: Any) -> Any:
    """The object of a reference; anything else, kept before Ray was up, is the object itself."""
    import ray

    return ray.get(state) if isinstance(state, ray.ObjectRef) else state


def put(state: Any) -> Any:
    """A reference to an object."""
    import ray

    return ray.put(state)
