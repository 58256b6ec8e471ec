"""Adding up the updates of a round: those of a shard first, then the shards.

Whoever collects the updates adds them up here, in the order of the cohort: an actor its shard's, a strategy those that reach it one by one.
So where that happens changes no bit. Each operation on vectors is rounded by itself, because fused ones depend on the number of threads.

Legend: vectors `(P,)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from flwr.app import Message
from torch import Tensor

from fedsam.messages import codec, flower_private
from fedsam.messages.codec import AggregationSpec, PartialSum, Update

T = TypeVar("T")
NEEDED = ("num-examples", "steps", "delta-norm", "examples", "train-loss", "gradient-evaluations", "forward-evaluations", "seconds")
POSITIVE = ("num-examples", "steps")
NONFINITE = "sent a non-finite "  # begins the failure of a client whose local training diverged
EVALUATED = ("num-examples", "accuracy", "loss")


class UpdateError(ValueError):
    """An update cannot be used; the message says why, without the client."""


def shards(items: Sequence[T], size: int | None) -> list[Sequence[T]]:
    """The items of a cohort in order, by shards of `size`; default: a sixteenth of the cohort, at most 32.

    >>> shards([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4], [5]]
    """
    size = size or min(max(1, len(items) // 16), 32)
    return [items[start : start + size] for start in range(0, len(items), size)]


def partial_sum(reply: Message, spec: AggregationSpec) -> PartialSum:
    """The sum of a single reply's update; an update that cannot be used is a failure."""
    node = reply.metadata.src_node_id
    if reply.has_error():
        return failure(node, str(reply.error.reason))
    try:
        update = codec.decode_update(reply.content)
    except codec.WireError as error:
        return PartialSum(failures={node: f"sent a malformed update: {error}"})
    return update_sum(node, update, spec)


def update_sum(node: int, update: Update, spec: AggregationSpec) -> PartialSum:
    """The sum of the update of one node alone; an update that cannot be used is a failure."""
    try:
        _check(update, spec)
    except UpdateError as error:
        return PartialSum(failures={node: str(error)})
    vectors = {name: update.vectors[name] for name in spec.like}
    if "population.delta" in spec.expects:
        vectors["population.delta"] = vectors["delta"]
    return PartialSum(
        nodes=[node],
        weight=update.metrics["num-examples"] if spec.weights == "examples" else 1.0,
        vectors=vectors,
        metrics={name: [value] for name, value in update.metrics.items()},
        bytes=codec.count_bytes(update.vectors),
    )


def failure(node: int, reason: str) -> PartialSum:
    """The sum of nothing, as the client of a node failed."""
    return PartialSum(failures={node: f"failed: {reason}"})


def partial_evaluation(reply: Message) -> PartialSum:
    """The sum of a single reply to an `evaluate` message, which has metrics alone; metrics that cannot be used are a failure."""
    node = reply.metadata.src_node_id
    try:
        metrics = _evaluated(reply)
    except UpdateError as error:
        return PartialSum(failures={node: str(error)})
    return PartialSum(nodes=[node], weight=metrics["num-examples"], metrics={name: [metrics[name]] for name in EVALUATED})


def total(sums: Iterable[PartialSum]) -> PartialSum:
    """The sum of partial sums, in their order. Its vectors may be those of a summand that stands alone."""
    result = PartialSum()
    for summand in sums:
        result = _add(result, summand)
    return result


def _add(total: PartialSum, summand: PartialSum) -> PartialSum:
    failures = {**total.failures, **summand.failures}
    if not (total.nodes and summand.nodes):
        return replace(total if total.nodes else summand, failures=failures)
    weight = total.weight + summand.weight
    vectors = {}
    for name, vector in summand.vectors.items():
        before = total.vectors[name]
        population = name.startswith("population.")
        vectors[name] = before + vector if population else (vector - before).mul_(summand.weight / weight).add_(before)
        if name == "buffers" and not bool(before.isfinite().all()):  # what the server has too, as a mask of -inf; inf - inf is no number
            vectors[name] = torch.where(before.isfinite(), vectors[name], before)
    return PartialSum(
        nodes=[*total.nodes, *summand.nodes],
        weight=weight,
        vectors=vectors,
        metrics={name: [*total.metrics[name], *summand.metrics[name]] for name in total.metrics if name in summand.metrics},
        bytes=total.bytes + summand.bytes,
        failures=failures,
    )


def _check(update: Update, spec: AggregationSpec) -> None:
    """Raise `UpdateError` where an update cannot be used."""
    _check_vectors(update, spec)
    scalars = [f"sent.{name.removeprefix('metrics.')}" for name in spec.expects if name.startswith("metrics.")]
    _check_numbers(update.metrics, NEEDED, scalars)


def _evaluated(reply: Message) -> Mapping[str, float]:
    if reply.has_error():
        raise UpdateError(f"failed: {reply.error.reason}")
    metrics = codec.decode_answer(reply.content).metrics
    _check_numbers(metrics, EVALUATED)
    return metrics


def _check_vectors(update: Update, spec: AggregationSpec) -> None:
    for name, like in spec.like.items():
        got = update.vectors.get(name)
        if got is None or got.shape != like.shape or got.dtype != like.dtype:
            what = f"no {name}" if got is None else f"a {name} of shape {tuple(got.shape)} and type {got.dtype}"
            raise UpdateError(f"sent {what}; expected shape {tuple(like.shape)} and type {like.dtype}")
    bad = [name for name, vector in update.vectors.items() if not usable(vector, spec.like[name] if name == "buffers" else None)]
    if bad:
        raise UpdateError(f"{NONFINITE}{bad[0]}: its local training diverged; a smaller client.optimizer.lr or a clip_norm may help")


def usable(vector: Tensor, known: Tensor | None = None) -> bool:
    """Whether all values are finite, those aside that are the server's own, `known`, unchanged."""
    if math.isfinite(vector.sum()):  # tells it nearly always, in a tenth of the time
        return True
    finite = vector.isfinite()
    if known is None:
        return bool(finite.all())
    return bool((finite | (vector == known) | (vector.isnan() & known.isnan())).all())


def _check_numbers(metrics: Mapping[str, float], needed: Sequence[str], finite: Sequence[str] = ()) -> None:
    for name in (*needed, *finite):
        value = metrics.get(name)
        if value is None:
            raise UpdateError(f"sent no metric {name}")
        if name in (*POSITIVE, *finite) and not (math.isfinite(value) and (name in finite or value > 0)):
            raise UpdateError(f"sent {value} as metric {name}; expected a finite number{'' if name in finite else ' above 0'}")


class ShardAccumulator:
    """The replies to a shard as they come: kept, or added up where its messages ask for that.

    Args:
        first: The shard's first message.
        single: Keep replies whatever it asks for.

    Attributes:
        spec: What the updates must hold that are added up; None where replies are kept.
    """

    def __init__(self, first: Message, *, single: bool = False) -> None:
        self.spec = None if single else codec.decode_spec(first.content)
        self._first = first
        self._weight = None if single else flower_private.merge_weight(first.content)
        self._single: list[Message] = []
        self._total = PartialSum()

    def add(self, reply: Message | PartialSum) -> bool:
        """Take a reply, or the sum of a single update in its place; whether it can be used, as far as that is known here."""
        if isinstance(reply, Message):
            if self.spec is None:
                self._single.append(reply)
                return not reply.has_error()
            reply = partial_sum(reply, self.spec)
        self._total = _add(self._total, reply)
        return not reply.failures

    def replies(self) -> list[Message]:
        """The replies, or one message in their place."""
        if self.spec is not None:
            return [Message(codec.encode_partial_sum(self._total), reply_to=self._first)]
        if self._weight is not None and self._single:
            return flower_private.average_replies(self._single, self._weight)
        return self._single
