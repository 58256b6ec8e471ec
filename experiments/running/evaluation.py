"""Evaluation of the global vector after a round: on the test set in this process, everything else where the clients are.

The client that a query is addressed to decides where it is computed, nothing else. Queries and the order of sums are fixed, so the
number of actors changes no value.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from fedsam.config import Experiment
from fedsam.data.datasets import Dataset
from fedsam.evaluation import accuracy
from fedsam.evaluation.accuracy import class_accuracies, client_accuracies, client_accuracy_summary
from fedsam.messages import codec
from fedsam.messages.codec import Answer
from fedsam.models.network import Network
from fedsam.results.rows import Row, Slice
from strategies.round import RunError

CHUNKS = 16  # of clients, whose examples one query of the union covers


@dataclass(frozen=True)
class EvaluationRequest:
    """A query: the action in its message type, and its parameters besides the vectors."""

    action: str
    parameters: Mapping[str, int | str]


@dataclass(frozen=True)
class Evaluator:
    """What a run measures, and with what.

    Attributes:
        network: Evaluates the test set.
        label_distribution: Examples of each class that each client holds, (clients, classes).
    """

    experiment: Experiment
    grid: Grid
    network: Network
    dataset: Dataset
    label_distribution: NDArray[np.integer[Any]]

    def evaluate(self, row: Row, w: Tensor, buffers: Tensor, *, last: bool) -> tuple[Row, list[Slice]]:
        """The row of a round with what is due after it, and the slices.

        Args:
            w: Global vector (P,), with its running statistics `buffers` (Q,).
            last: Whether the run ends with this round.

        Raises:
            RunError: A query failed; the message names it.
        """
        start, settings = time.perf_counter(), self.experiment.measure
        every = settings.flatness.every
        names = list(dict.fromkeys(settings.flatness.measures)) if last or (every and row.round % every == 0) else []
        chunks = _chunks(len(self.label_distribution)) if last and settings.union else []
        queries = [
            *(EvaluationRequest("flatness", {"measure": name}) for name in names),
            *(EvaluationRequest("union", chunk) for chunk in chunks),
        ]
        tested = self._tested(w, buffers, last=last) if last or row.round % settings.every == 0 else {}
        if not queries and not tested:
            return row, []
        answers = self._query(queries, w, buffers, row.round)
        flat, union = answers[: len(names)], answers[len(names) :]
        values = {**row.measures, **tested, **_flatness(flat), **_union(union)}
        slices = [_slice(row, name, answer.slice) for name, answer in zip(names, flat, strict=True) if answer.slice]
        return replace(row, measures=values, evaluate_seconds=time.perf_counter() - start), slices

    def _tested(self, w: Tensor, buffers: Tensor, *, last: bool) -> dict[str, float]:
        device = self.network.parameters[0].device
        test = accuracy.evaluate(
            self.network, w.to(device), buffers.to(device), self.dataset.test, self.dataset, self.experiment.measure.batch_size
        )
        clients = {
            f"client_accuracy_{name}": value
            for name, value in client_accuracy_summary(client_accuracies(test, self.label_distribution)).items()
        }
        classes = {f"class_accuracy_{kind}": value for kind, value in enumerate(class_accuracies(test)) if last and math.isfinite(value)}
        return {"test_accuracy": test.accuracy, "test_loss": test.loss, "calibration_error": test.calibration_error, **clients, **classes}

    def _query(self, queries: Sequence[EvaluationRequest], w: Tensor, buffers: Tensor, round: int) -> list[Answer]:
        """The answers, in the order of the queries, which share one record of the vectors."""
        record, nodes = codec.arrays({"w": w, **({"buffers": buffers} if buffers.numel() else {})}), list(self.grid.get_node_ids())
        messages = [
            Message(
                codec.encode_query(record, round, query.parameters, constants=self.network.constants),
                dst_node_id=nodes[number % len(nodes)],
                message_type=f"query.{query.action}",
                group_id=str(number),
            )
            for number, query in enumerate(queries)
        ]
        replies = {reply.metadata.group_id: reply for reply in self.grid.send_and_receive(messages)}
        return [self._answer(query, replies.get(str(number)), round) for number, query in enumerate(queries)]

    def _answer(self, query: EvaluationRequest, reply: Message | None, round: int) -> Answer:
        if reply is not None and not reply.has_error():
            return codec.decode_answer(reply.content)
        what = f"{query.action} ({', '.join(f'{key} {value}' for key, value in query.parameters.items())})"
        reason = f"failed: {reply.error.reason}" if reply is not None else "was not answered"
        raise RunError(f"measuring {what} after round {round} (seed {self.experiment.seed}) {reason}")


def _chunks(clients: int) -> list[dict[str, int | str]]:
    edges = np.linspace(0, clients, min(CHUNKS, clients) + 1).astype(int).tolist()
    return [{"from": first, "to": end} for first, end in pairwise(edges)]


def _union(answers: Sequence[Answer]) -> dict[str, float]:
    """Mean loss and accuracy over the examples of all chunks."""
    if not answers:
        return {}
    loss, correct, examples = (sum(answer.metrics[name] for answer in answers) for name in ("total-loss", "correct", "num-examples"))
    return {"union_loss": loss / examples, "union_accuracy": correct / examples}


def _flatness(answers: Sequence[Answer]) -> dict[str, float]:
    """The values of all measures, and what they took together."""
    if not answers:
        return {}
    values = {name: value for answer in answers for name, value in answer.metrics.items()}
    return values | {f"flatness_{name.replace('-', '_')}": sum(answer.cost[name] for answer in answers) for name in answers[0].cost}


def _slice(row: Row, name: str, found: Mapping[str, Sequence[float]]) -> Slice:
    alphas, width = found["alphas"], len(found["losses"]) // len(found["alphas"])
    losses = tuple(tuple(found["losses"][start : start + width]) for start in range(0, len(found["losses"]), width))
    return Slice(run=row.run, round=row.round, name=name, alphas=tuple(alphas), losses=losses)
