"""What crosses the network: the only reader and writer of the records in fedsam's own messages; toy apps of the benchmarks have theirs.

A broadcast is `{"arrays": ArrayRecord, "config": ConfigRecord}` and an update `{"arrays": ArrayRecord, "metrics": MetricRecord}`, the
names of Flower's own strategies, so that those can train our clients too. A vector travels as one array.

Array names: `w` global vector, `delta` after - before, `buffers` running statistics (values, never a difference), `mean.NAME` and
`population.NAME` a correction's other vectors, by how they are aggregated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedsam.config import Weights
from fedsam.messages import flower_private
from fedsam.messages.tensor_array import TensorArray

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
        constants: Digest of the server's tensors that do not travel, as `Network.constants`; None where the sender does not say.
        cohort: Clients that were asked in this round; None where the sender does not say.
    """

    vectors: Vectors
    round: int
    reply: str = "model"
    accepted: int | None = None
    constants: str | None = None
    cohort: int | None = None


@dataclass(frozen=True)
class AggregationSpec:
    """What an update must hold to be used, and how it counts. A broadcast that carries it lets the grid add the updates up.

    Attributes:
        like: What the update's vectors must resemble, by name; only shapes and types matter, and where `buffers` is not finite.
        expects: What is combined besides the delta, as `ServerRule.expects`.
        weights: Of updates in means.
    """

    like: Vectors
    expects: Sequence[str]
    weights: Weights

    @classmethod
    def from_vectors(cls, broadcast: Vectors, expects: Sequence[str], weights: Weights, moved: str = "delta") -> AggregationSpec:
        """The spec of a round whose clients receive the vectors `broadcast` and reply with `moved` (`delta` or `w`)."""
        others = (name for name in expects if not name.startswith("metrics.") and name != "population.delta")
        like = dict.fromkeys((moved, *others), broadcast["w"])
        return cls(like | ({"buffers": broadcast["buffers"]} if "buffers" in broadcast else {}), expects, weights)


@dataclass(frozen=True)
class Update:
    """Client to server.

    Attributes:
        vectors: `delta` or `w` (P,), `buffers` (Q,), `mean.NAME`, `population.NAME`.
        metrics: `num-examples`, the client's measured cost, and a correction's scalars.
    """

    vectors: Vectors
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PartialSum:
    """The updates of some clients, added up.

    Attributes:
        nodes: Whose updates could be used, in the order of the sum.
        weight: Sum of the clients' weights in means.
        vectors: Weighted means; those named `population.NAME` are plain sums.
        metrics: Each client's, in the order of `nodes`.
        bytes: Of the vectors that the clients sent.
        failures: What went wrong, by node, of the others.
    """

    nodes: Sequence[int] = ()
    weight: float = 0.0
    vectors: Vectors = field(default_factory=dict)
    metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    bytes: int = 0
    failures: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """Client to server, where no training was asked for.

    Attributes:
        metrics: The numbers asked for.
        cost: What they took.
        slice: The losses of a slice through the loss row by row (`losses`), and where they are (`alphas`).
        vectors: What is asked for of many examples, by name.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    slice: Mapping[str, Sequence[float]] = field(default_factory=dict)
    vectors: Vectors = field(default_factory=dict)


def arrays(vectors: Vectors) -> ArrayRecord:
    """Copies of vectors as an ArrayRecord."""
    found = ArrayRecord()  # made so, because its constructor would encode them
    flower_private.fill_record(found, {name: TensorArray(vector) for name, vector in vectors.items()})
    return found


def tensors(record: ArrayRecord, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """An ArrayRecord as new tensors on `device`."""
    return {name: torch.from_numpy(array.numpy()).to(device) for name, array in record.items()}


def views(record: ArrayRecord) -> dict[str, Tensor]:
    """As `tensors`, but not to be changed: vectors from this process are not copied."""
    return {name: _view(array) for name, array in record.items()}


def _view(array: Array) -> Tensor:
    return array.tensor() if isinstance(array, TensorArray) else torch.from_numpy(array.numpy())


def metrics(values: Mapping[str, Any]) -> MetricRecord:
    """Numbers, or lists of numbers of one type, as a MetricRecord. Raises `TypeError` for anything else."""
    if not all(set(map(type, value if type(value) is list else [value])) in ({int}, {float}) for value in values.values()):
        return MetricRecord(dict(values))
    found = MetricRecord()
    flower_private.fill_record(found, values)
    return found


def numbers(record: MetricRecord) -> dict[str, float]:
    """The single numbers in a record."""
    return {name: float(value) for name, value in record.items() if not isinstance(value, list)}


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
    record: ArrayRecord,
    round: int,
    *,
    reply: str = "delta",
    accepted: int | None = None,
    spec: AggregationSpec | None = None,
    constants: str | None = None,
    cohort: int | None = None,
) -> RecordDict:
    """The message content for one client; `record` comes from `arrays` and is shared by all of a round. With `spec` a grid may add up."""
    merge = {} if spec is None else {"fedsam.merge": spec.weights, "fedsam.expects": list(spec.expects)}
    told = {"accepted": accepted, "constants": constants, "cohort": cohort}
    known = {name: value for name, value in told.items() if value is not None}
    config = ConfigRecord({"server-round": round, "reply": reply, **merge, **known})
    return flower_private.make_content({"arrays": record, "config": config})


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
    return Broadcast(
        tensors(sent, device),
        round=int(str(config["server-round"])),
        reply=str(config.get("reply", "model")),
        accepted=int(str(config["accepted"])) if "accepted" in config else None,
        constants=str(config["constants"]) if "constants" in config else None,
        cohort=int(str(config["cohort"])) if "cohort" in config else None,
    )


def decode_spec(content: RecordDict) -> AggregationSpec | None:
    """The spec in a broadcast's content; None where replies are to stay single."""
    sent, config = record(content, "arrays", ArrayRecord), record(content, "config", ConfigRecord)
    if sent is None or config is None or "fedsam.merge" not in config:
        return None
    entries: Any = dict(config)
    like = {
        name: _view(array) if name == "buffers" else torch.empty(array.shape, dtype=getattr(torch, array.dtype), device="meta")
        for name, array in sent.items()
    }
    return AggregationSpec.from_vectors(like, entries["fedsam.expects"], entries["fedsam.merge"])


def encode_query(record: ArrayRecord, round: int, asked: Mapping[str, int | str], *, constants: str | None = None) -> RecordDict:
    """As `encode_broadcast`, with what is asked about the vectors in a ConfigRecord `query`."""
    return flower_private.make_content({**encode_broadcast(record, round, constants=constants), "query": ConfigRecord(dict(asked))})


def decode_query(content: RecordDict, device: str | torch.device = "cpu") -> tuple[Broadcast, dict[str, Any]]:
    """The vectors in a message's content, and what is asked about them.

    Raises:
        WireError: As `decode_broadcast`, or nothing is asked.
    """
    asked = record(content, "query", ConfigRecord)
    if asked is None:
        raise WireError("a query holds a ConfigRecord 'query'")
    return decode_broadcast(content, device), dict(asked)


def encode_answer(answer: Answer) -> RecordDict:
    """The message content of an answer: a record for each of its attributes that is not empty, and `metrics`."""
    others = {key: metrics(values) for key, values in (("cost", answer.cost), ("slice", answer.slice)) if values}
    vectors = {"arrays": arrays(answer.vectors)} if answer.vectors else {}
    return flower_private.make_content({"metrics": metrics(answer.metrics), **others, **vectors})


def decode_answer(content: RecordDict) -> Answer:
    """The answer in a message's content; what is not there is empty. Its vectors are not to be changed."""
    found, cost, slice = (record(content, key, MetricRecord) or MetricRecord() for key in ("metrics", "cost", "slice"))
    losses = {name: values for name, values in slice.items() if isinstance(values, list)}
    return Answer(numbers(found), numbers(cost), losses, views(record(content, "arrays", ArrayRecord) or ArrayRecord()))


def encode_update(update: Update) -> RecordDict:
    """The message content of an update."""
    return flower_private.make_content({"arrays": arrays(update.vectors), "metrics": metrics(update.metrics)})


def decode_update(content: RecordDict) -> Update:
    """The update in a message's content; its vectors are not to be changed.

    Raises:
        WireError: A record is missing.
    """
    sent, measured = record(content, "arrays", ArrayRecord), record(content, "metrics", MetricRecord)
    if sent is None or measured is None:
        raise WireError("an update holds an ArrayRecord 'arrays' and a MetricRecord 'metrics'")
    return Update(views(sent), numbers(measured))


def encode_partial_sum(total: PartialSum) -> RecordDict:
    """The content of a message in place of several clients' replies."""
    return flower_private.make_content(
        {
            "arrays": arrays(total.vectors),
            "metrics": metrics({name: list(values) for name, values in total.metrics.items()}),
            "merged": metrics({"nodes": list(total.nodes), "weight": total.weight, "bytes": total.bytes}),
            "failures": ConfigRecord({str(node): what for node, what in total.failures.items()}),
        }
    )


def decode_partial_sum(content: RecordDict) -> PartialSum | None:
    """The sum in the content of a reply that stands for several; None where it is a single one. Its vectors are not to be changed."""
    if "merged" not in content:
        return None
    found: Any = content
    return PartialSum(
        nodes=list(found["merged"]["nodes"]),
        weight=float(found["merged"]["weight"]),
        vectors=views(found["arrays"]),
        metrics={name: list(values) for name, values in found["metrics"].items()},
        bytes=int(found["merged"]["bytes"]),
        failures={int(node): str(what) for node, what in found["failures"].items()},
    )
