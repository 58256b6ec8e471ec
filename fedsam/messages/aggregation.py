"""Adding up the updates of a round: those of a shard first, then the shards.

Whoever collects the updates adds them up here, in the order of the cohort: an actor its shard's, a strategy those that reach it one by one.
So where that happens changes no bit. Each operation on vectors is rounded by itself, because fused ones depend on the number of threads.

Legend: vectors `(P,)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedsam.config import Weights
from fedsam.messages import codec, flower_private

T = TypeVar("T")
NEEDED = ("num-examples", "steps", "delta-norm", "examples", "train-loss", "gradient-evaluations", "forward-evaluations", "seconds")
POSITIVE = ("num-examples", "steps")
EVALUATED = ("num-examples", "accuracy", "loss")


@dataclass(frozen=True)
class AggregationSpec:
    """What an update must hold to be used, and how it counts.

    Attributes:
        like: What the update's vectors must resemble, by name; only shapes and types matter.
        expects: What is combined besides the delta, as `ServerRule.expects`.
        weights: Of updates in means.
    """

    like: Mapping[str, Tensor]
    expects: Sequence[str]
    weights: Weights

    @classmethod
    def of(cls, broadcast: RecordDict) -> AggregationSpec | None:
        """The terms in the content of a message to a client; None where replies are to stay single."""
        sent, config = codec.record(broadcast, "arrays", ArrayRecord), codec.record(broadcast, "config", ConfigRecord)
        if sent is None or config is None or "fedsam.merge" not in config:
            return None
        held: Any = dict(config)
        empty = {name: torch.empty(sent[name].shape, dtype=getattr(torch, sent[name].dtype), device="meta") for name in sent}
        return cls.from_vectors(empty, held["fedsam.expects"], held["fedsam.merge"])

    @classmethod
    def from_vectors(
        cls, broadcast: Mapping[str, Tensor], expects: Sequence[str], weights: Weights, moved: str = "delta"
    ) -> AggregationSpec:
        """The terms of a round whose clients were sent the vectors `broadcast` and reply with `moved` (`delta` or `w`)."""
        others = (name for name in expects if not name.startswith("metrics.") and name != "population.delta")
        like = dict.fromkeys((moved, *others), broadcast["w"])
        return cls(like | ({"buffers": broadcast["buffers"]} if "buffers" in broadcast else {}), expects, weights)

    def config(self) -> dict[str, Any]:
        """The terms as entries of a message's ConfigRecord, for `of`."""
        return {"fedsam.merge": self.weights, "fedsam.expects": list(self.expects)}


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
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    bytes: int = 0
    failures: Mapping[int, str] = field(default_factory=dict)


def shards(items: Sequence[T], size: int | None) -> list[Sequence[T]]:
    """The items of a cohort in order, by shards of `size`; default: a sixteenth of the cohort, at most 32.

    >>> shards([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4], [5]]
    """
    size = size or min(max(1, len(items) // 16), 32)
    return [items[start : start + size] for start in range(0, len(items), size)]


def part(reply: Message, terms: AggregationSpec) -> PartialSum:
    """A single reply; its update does not count where it cannot be used."""
    node, update = reply.metadata.src_node_id, checked(reply, terms)
    if isinstance(update, str):
        return PartialSum(failures={node: update})
    vectors = {name: update.vectors[name] for name in terms.like}
    if "population.delta" in terms.expects:
        vectors["population.delta"] = vectors["delta"].clone()
    return PartialSum(
        nodes=[node],
        weight=update.metrics["num-examples"] if terms.weights == "examples" else 1.0,
        vectors=vectors,
        metrics={name: [value] for name, value in update.metrics.items()},
        bytes=codec.count_bytes(update.vectors),
    )


def evaluation(reply: Message) -> PartialSum:
    """A single reply to an `evaluate` message, which has metrics alone; they do not count where they cannot be used."""
    node = reply.metadata.src_node_id
    if reply.has_error():
        return PartialSum(failures={node: f"failed: {reply.error.reason}"})
    metrics = codec.numbers(codec.record(reply.content, "metrics", MetricRecord) or MetricRecord())
    problem = _numbers_problem(metrics, EVALUATED)
    if problem:
        return PartialSum(failures={node: problem})
    return PartialSum(nodes=[node], weight=metrics["num-examples"], metrics={name: [metrics[name]] for name in EVALUATED})


def total_(parts: Iterable[PartialSum]) -> PartialSum:
    """The sum of parts, in their order; it takes over and changes the vectors of the first."""
    total = PartialSum()
    for part in parts:
        total = _add_(total, part)
    return total


def _add_(total: PartialSum, part: PartialSum) -> PartialSum:
    failures = {**total.failures, **part.failures}
    if not (total.nodes and part.nodes):
        return replace(total if total.nodes else part, failures=failures)
    weight = total.weight + part.weight
    for name, vector in part.vectors.items():
        into = total.vectors[name]
        into.add_(vector if name.startswith("population.") else (vector - into).mul_(part.weight / weight))
    return PartialSum(
        nodes=[*total.nodes, *part.nodes],
        weight=weight,
        vectors=total.vectors,
        metrics={name: [*total.metrics[name], *part.metrics[name]] for name in total.metrics if name in part.metrics},
        bytes=total.bytes + part.bytes,
        failures=failures,
    )


def checked(reply: Message, terms: AggregationSpec) -> codec.Update | str:
    """The update in a reply, or what is wrong with it."""
    if reply.has_error():
        return f"failed: {reply.error.reason}"
    try:
        update = codec.decode_update(reply.content)
    except codec.WireError as error:
        return f"sent a malformed update: {error}"
    return _vectors_problem(update, terms) or _metrics_problem(update, terms) or update


def _vectors_problem(update: codec.Update, terms: AggregationSpec) -> str | None:
    for name, like in terms.like.items():
        got = update.vectors.get(name)
        if got is None or got.shape != like.shape or got.dtype != like.dtype:
            what = f"no {name}" if got is None else f"a {name} of shape {tuple(got.shape)} and type {got.dtype}"
            return f"sent {what}; expected shape {tuple(like.shape)} and type {like.dtype}"
    bad = [name for name, vector in update.vectors.items() if not bool(torch.isfinite(vector).all())]
    if bad:
        return f"sent a non-finite {bad[0]}: its local training diverged; a smaller client.optimizer.lr or a clip_norm may help"
    return None


def _metrics_problem(update: codec.Update, terms: AggregationSpec) -> str | None:
    scalars = [f"sent.{name.removeprefix('metrics.')}" for name in terms.expects if name.startswith("metrics.")]
    return _numbers_problem(update.metrics, NEEDED, scalars)


def _numbers_problem(metrics: Mapping[str, float], needed: Sequence[str], finite: Sequence[str] = ()) -> str | None:
    for name in (*needed, *finite):
        value = metrics.get(name)
        if value is None:
            return f"sent no metric {name}"
        if name in (*POSITIVE, *finite) and not (math.isfinite(value) and (name in finite or value > 0)):
            return f"sent {value} as metric {name}; expected a finite number{'' if name in finite else ' above 0'}"
    return None


class ShardAccumulator:
    """The replies to a shard as they come: kept, or added up where its messages ask for that.

    Args:
        first: The shard's first message.
        single: Keep replies whatever it asks for.
    """

    def __init__(self, first: Message, *, single: bool = False) -> None:
        config = codec.record(first.content, "config", ConfigRecord) or ConfigRecord()
        self._first = first
        self._terms, self._by = (None, None) if single else (AggregationSpec.of(first.content), config.get("fedsam.merge-by"))
        self._single: list[Message] = []
        self._total = PartialSum()

    def add(self, reply: Message) -> bool:
        """Take a reply; whether it can be used, as far as that is known here."""
        if self._terms is None:
            self._single.append(reply)
            return not reply.has_error()
        one = part(reply, self._terms)
        self._total = _add_(self._total, one)
        return not one.failures

    def replies(self) -> list[Message]:
        """The replies, or one message in their place."""
        if self._terms is not None:
            return [Message(encode(self._total), reply_to=self._first)]
        return flower_private.mean(self._single, str(self._by)) if self._by is not None and self._single else self._single


def encode(part: PartialSum) -> RecordDict:
    """The content of a message in place of several clients' replies."""
    merged: Any = {"nodes": list(part.nodes), "weight": part.weight, "bytes": part.bytes}
    return RecordDict(
        {
            "arrays": codec.arrays(part.vectors),
            "metrics": MetricRecord({name: list(values) for name, values in part.metrics.items()}),
            "merged": MetricRecord(merged),
            "failures": ConfigRecord({str(node): what for node, what in part.failures.items()}),
        }
    )


def decode(reply: Message) -> PartialSum | None:
    """The part in a reply that stands for several; None where it is a single one."""
    if reply.has_error() or "merged" not in reply.content:
        return None
    content: Any = reply.content
    return PartialSum(
        nodes=list(content["merged"]["nodes"]),
        weight=float(content["merged"]["weight"]),
        vectors=codec.tensors(content["arrays"]),
        metrics={name: list(values) for name, values in content["metrics"].items()},
        bytes=int(content["merged"]["bytes"]),
        failures={int(node): str(what) for node, what in content["failures"].items()},
    )
