"""What crosses the network: the only reader and writer of Flower records, those of merged updates aside (`merge`).

A broadcast is `{"arrays": ArrayRecord, "config": ConfigRecord}` and an update `{"arrays": ArrayRecord, "metrics": MetricRecord}`, the
names of Flower's own strategies, so that those can train our clients too. A vector travels as one array.

Array names: `w` global vector, `delta` after - before, `buffers` running statistics (values, never a difference), `mean.NAME` and
`population.NAME` a correction's other vectors, by how they are aggregated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

Vectors = Mapping[str, Tensor]
Kind = TypeVar("Kind", ArrayRecord, ConfigRecord, MetricRecord)


class WireError(ValueError):
    """A message does not hold what it should; the message says which key."""


@dataclass(frozen=True)
class Broadcast:
    """Server to client.

    Attributes:
        vectors: `w` (P,), `buffers` (Q,) where the network has any, and what the correction needs.
        round: Round, from 1.
        reply: Whether the client is to send its delta (our strategies) or its vector (Flower's strategies).
        accepted: The last round in which this client's update was accepted, 0 if none; None where every update is.
    """

    vectors: Vectors
    round: int
    reply: str = "model"
    accepted: int | None = None


@dataclass(frozen=True)
class Update:
    """Client to server.

    Attributes:
        vectors: `delta` or `w` (P,), `buffers` (Q,), `mean.NAME`, `population.NAME`.
        metrics: `num-examples`, the client's measured cost, and a correction's scalars.
    """

    vectors: Vectors
    metrics: Mapping[str, float] = field(default_factory=dict)


def arrays(vectors: Vectors) -> ArrayRecord:
    """Vectors as an ArrayRecord."""
    return ArrayRecord({name: Array(vector.detach().cpu().numpy()) for name, vector in vectors.items()})


def tensors(record: ArrayRecord, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """An ArrayRecord as new tensors on `device`."""
    return {name: torch.from_numpy(array.numpy()).to(device) for name, array in record.items()}


def record(content: RecordDict, key: str, kind: type[Kind]) -> Kind | None:
    """The record of that name, None where there is none of that kind.

    Unlike `content.array_records` it makes no reference cycle, which would hold all arrays of `content` until the garbage collector runs.
    """
    found = content.get(key)
    return found if isinstance(found, kind) else None


def count_bytes(vectors: Vectors) -> int:
    """Bytes of the vectors themselves: what an ideal transport would carry."""
    return sum(vector.numel() * vector.element_size() for vector in vectors.values())


def encode_broadcast(
    record: ArrayRecord, round: int, *, reply: str = "delta", accepted: int | None = None, terms: Mapping[str, Any] | None = None
) -> RecordDict:
    """The message content for one client; `record` comes from `arrays` and is shared by all messages of a round.

    With `terms`, from `Terms.config`, a grid may merge the replies.
    """
    config = ConfigRecord({"server-round": round, "reply": reply, **(terms or {})})
    if accepted is not None:
        config["accepted"] = accepted
    return RecordDict({"arrays": record, "config": config})


def decode_broadcast(content: RecordDict, device: str | torch.device = "cpu") -> Broadcast:
    """The broadcast in a message's content.

    Raises:
        WireError: There is no array `w` or no round.
    """
    sent, config = record(content, "arrays", ArrayRecord), record(content, "config", ConfigRecord)
    if sent is None or "w" not in sent:
        raise WireError("a broadcast holds an ArrayRecord 'arrays' with the array 'w'")
    if config is None or "server-round" not in config:
        raise WireError("a broadcast holds a ConfigRecord 'config' with 'server-round'")
    accepted = int(str(config["accepted"])) if "accepted" in config else None
    return Broadcast(tensors(sent, device), int(str(config["server-round"])), str(config.get("reply", "model")), accepted)


def encode_query(record: ArrayRecord, round: int, asked: Mapping[str, int | str]) -> RecordDict:
    """As `encode_broadcast`, with what is asked about the vectors in a ConfigRecord `query`."""
    return RecordDict({**encode_broadcast(record, round), "query": ConfigRecord(dict(asked))})


def decode_query(content: RecordDict, device: str | torch.device = "cpu") -> tuple[Broadcast, dict[str, Any]]:
    """The vectors in a message's content, and what is asked about them.

    Raises:
        WireError: As `decode_broadcast`, or nothing is asked.
    """
    asked = record(content, "query", ConfigRecord)
    if asked is None:
        raise WireError("a query holds a ConfigRecord 'query'")
    return decode_broadcast(content, device), dict(asked)


def encode_update(update: Update) -> RecordDict:
    """The message content of an update."""
    return RecordDict({"arrays": arrays(update.vectors), "metrics": MetricRecord(dict(update.metrics))})


def decode_update(content: RecordDict) -> Update:
    """The update in a message's content.

    Raises:
        WireError: A record is missing.
    """
    sent, metrics = record(content, "arrays", ArrayRecord), record(content, "metrics", MetricRecord)
    if sent is None or metrics is None:
        raise WireError("an update holds an ArrayRecord 'arrays' and a MetricRecord 'metrics'")
    return Update(tensors(sent), numbers(metrics))


def numbers(record: MetricRecord) -> dict[str, float]:
    """The single numbers in a record."""
    return {name: float(value) for name, value in record.items() if not isinstance(value, list)}


def encode_state(state: Mapping[str, Any]) -> tuple[ArrayRecord, ConfigRecord]:
    """A local optimizer's state as records: tensors by number, everything else (numbers, texts, lists of these) as one JSON text.

    Raises:
        WireError: The state holds something else.
    """
    held: dict[str, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            held[str(len(held))] = value
            return {"tensor": str(len(held) - 1)}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise WireError(f"an optimizer's state holds tensors, numbers, texts and lists of these, not {type(value).__name__}")

    text = json.dumps({name: plain(value) for name, value in state.items()})
    return arrays(held), ConfigRecord({"state": text})


def decode_state(record: ArrayRecord, config: ConfigRecord, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The state that `encode_state` made records of; tuples come back as lists."""
    held = tensors(record, device)

    def rich(value: Any) -> Any:
        if isinstance(value, dict):
            return held[value["tensor"]]
        return [rich(item) for item in value] if isinstance(value, list) else value

    return {name: rich(value) for name, value in json.loads(str(config["state"])).items()}
