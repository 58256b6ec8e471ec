"""Evaluation of the global vector after a round by queries to clients: of the test set, held-out and clients' examples, and flatness.

The client that a query is addressed to decides where it is computed, nothing else. Queries and the order of sums are fixed, so the
number of actors changes no value, nor does what they do meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from fedsam.config import Experiment
from fedsam.data.datasets import Dataset
from fedsam.data.federated import validation_examples
from fedsam.evaluation.accuracy import Scores, class_accuracies, client_accuracies, client_accuracy_summary, score
from fedsam.grid.base import LocalGrid
from fedsam.messages import codec
from fedsam.messages.codec import Answer
from fedsam.models.network import Network
from fedsam.results.rows import Row, Slice
from strategies.round import RunError

UNION_CHUNKS = 16  # of clients, whose examples one query of the union covers
TEST_CHUNKS = 20  # of batches of the test set, and as many of the validation set
VALIDATION = "validation_accuracy"  # a measure
SCORED = ("validation", "test")  # actions whose answers are `Scores`, in this order


@dataclass(frozen=True)
class EvaluationRequest:
    """A query: the action in its message type, and its parameters besides the vectors."""

    action: str
    parameters: Mapping[str, int | str]


@dataclass(frozen=True)
class Evaluator:
    """What a run measures, and with what.

    Attributes:
        network: Evaluates test and validation set where the grid is not ours: no vectors are sent for them.
        label_distribution: Examples of each class that each client holds, (clients, classes).
    """

    experiment: Experiment
    grid: Grid
    network: Network
    dataset: Dataset
    label_distribution: NDArray[np.integer[Any]]

    @cached_property
    def held_out(self) -> NDArray[np.integer[Any]]:
        """Indices of the training examples for validation."""
        return validation_examples(self.experiment, self.dataset)

    def due(self, round: int, *, last: bool) -> list[EvaluationRequest]:
        """What is measured after a round, the longest queries first; `last`: the run ends with it."""
        settings = self.experiment.measure
        every, parts = settings.flatness.every, TEST_CHUNKS if isinstance(self.grid, LocalGrid) else 1
        names = dict.fromkeys(settings.flatness.measures) if last or (every and round % every == 0) else ()
        clients = len(self.label_distribution) if last and settings.union else 0
        due = last or round % settings.every == 0
        sizes = len(self.dataset.test.y) if settings.test else 0, len(self.held_out)
        tested, validated = (-(-size // settings.batch_size) * due for size in sizes)
        return [
            *(EvaluationRequest("flatness", {"measure": name}) for name in names),
            *(EvaluationRequest("union", chunk) for chunk in _chunks(clients, UNION_CHUNKS)),
            *(EvaluationRequest("validation", chunk) for chunk in _chunks(validated, parts)),
            *(EvaluationRequest("test", chunk) for chunk in _chunks(tested, parts)),
        ]

    def validate(self, row: Row, w: Tensor, buffers: Tensor) -> Row:
        """The row with the validation measures, if they are due and not in it yet: `evaluate` then takes them from there.

        Raises:
            RunError: As `evaluate`.
        """
        if row.round % self.experiment.measure.every or VALIDATION in row.measures:
            return row
        queries = [query for query in self.due(row.round, last=False) if query.action == "validation"]
        ours = isinstance(self.grid, LocalGrid)
        replies = self.grid.send_and_receive(self._messages(queries, w, buffers, row.round)) if ours else ()
        answers = self._answers(queries, replies, row.round) if ours else [self._scored("validation", w, buffers)]
        seconds = row.evaluate_seconds + sum(answer.cost["seconds"] for answer in answers)
        return replace(row, measures={**row.measures, **self._validation_measures(answers)}, evaluate_seconds=seconds)

    def evaluate(self, row: Row, w: Tensor, buffers: Tensor, done: Callable[[Row, Sequence[Slice]], None], *, last: bool) -> None:
        """Have a round evaluated: in the background where the grid is ours, and now where it is not.

        Args:
            w: Global vector (P,), with its running statistics `buffers` (Q,).
            done: Is called with the row, which then has the measures that are due, and the slices; row after row.
            last: Whether the run ends with this round.

        Raises:
            RunError: A query failed; the message names it and the round. What is in the background is raised by the grid's methods.
        """
        queries = [query for query in self.due(row.round, last=last) if query.action != "validation" or VALIDATION not in row.measures]
        sent = [query for query in queries if query.action not in SCORED or isinstance(self.grid, LocalGrid)]
        messages = self._messages(sent, w, buffers, row.round)

        def finish(replies: Iterable[Message]) -> None:
            found = self._answers(sent, replies, row.round)
            found += [self._scored(query.action, w, buffers) for query in queries[len(sent) :]]
            done(*self._measured(row, queries, found, last=last))

        if isinstance(self.grid, LocalGrid):
            self.grid.push_background(messages, finish)
        else:
            finish(self.grid.send_and_receive(messages))

    def _measured(
        self, row: Row, queries: Sequence[EvaluationRequest], answers: Sequence[Answer], *, last: bool
    ) -> tuple[Row, list[Slice]]:
        """The row with the measures that the answers come to, and the slices."""
        pairs = list(zip(queries, answers, strict=True))
        answered = {action: [answer for query, answer in pairs if query.action == action] for action in ("flatness", "union", *SCORED)}
        scored = {**self._test_measures(answered["test"], last=last), **self._validation_measures(answered["validation"])}
        values = {**row.measures, **scored, **_flatness(answered["flatness"]), **_union(answered["union"])}
        slices = [_slice(row, str(query.parameters["measure"]), answer.slice) for query, answer in pairs if answer.slice]
        seconds = row.evaluate_seconds + sum(answer.cost["seconds"] for answer in answers)
        return replace(row, measures=values, evaluate_seconds=seconds), slices

    def _test_measures(self, answers: Sequence[Answer], *, last: bool) -> dict[str, float]:
        if not answers:
            return {}
        scores = Scores.joined([Scores(**answer.vectors) for answer in answers])
        test = scores.evaluation(self.dataset.test.y, self.dataset.classes)
        clients = {
            f"client_accuracy_{name}": value
            for name, value in client_accuracy_summary(client_accuracies(test, self.label_distribution)).items()
        }
        classes = {f"class_accuracy_{kind}": value for kind, value in enumerate(class_accuracies(test)) if last and math.isfinite(value)}
        return {"test_accuracy": test.accuracy, "test_loss": test.loss, "calibration_error": test.calibration_error, **clients, **classes}

    def _validation_measures(self, answers: Sequence[Answer]) -> dict[str, float]:
        if not answers:
            return {}
        found = Scores.joined([Scores(**answer.vectors) for answer in answers])
        evaluation = found.evaluation(self.dataset.train.y[self.held_out], self.dataset.classes)
        return {VALIDATION: evaluation.accuracy, "validation_loss": evaluation.loss}

    def _scored(self, action: str, w: Tensor, buffers: Tensor) -> Answer:
        """As a client's answer to a query of the whole test or validation set."""
        start, device = time.perf_counter(), self.network.parameters[0].device
        images = self.dataset.test if action == "test" else self.dataset.train.select(torch.from_numpy(self.held_out))
        scores = score(self.network, w.to(device), buffers.to(device), images, self.dataset, self.experiment.measure.batch_size)
        return Answer(cost={"seconds": time.perf_counter() - start}, vectors=vars(scores))

    def _messages(self, queries: Sequence[EvaluationRequest], w: Tensor, buffers: Tensor, round: int) -> list[Message]:
        """The queries, which share one record of the vectors."""
        if not queries:
            return []
        record, nodes = codec.arrays({"w": w, **({"buffers": buffers} if buffers.numel() else {})}), list(self.grid.get_node_ids())
        return [
            Message(
                codec.encode_query(record, round, query.parameters, constants=self.network.constants),
                dst_node_id=nodes[number % len(nodes)],
                message_type=f"query.{query.action}",
                group_id=str(number),
            )
            for number, query in enumerate(queries)
        ]

    def _answers(self, queries: Sequence[EvaluationRequest], replies: Iterable[Message], round: int) -> list[Answer]:
        """The answers, in the order of the queries."""
        found = {reply.metadata.group_id: reply for reply in replies}
        return [self._answer(query, found.get(str(number)), round) for number, query in enumerate(queries)]

    def _answer(self, query: EvaluationRequest, reply: Message | None, round: int) -> Answer:
        if reply is not None and not reply.has_error():
            return codec.decode_answer(reply.content)
        what = f"{query.action} ({', '.join(f'{key} {value}' for key, value in query.parameters.items())})"
        reason = f"failed: {reply.error.reason}" if reply is not None else "was not answered"
        raise RunError(f"measuring {what} after round {round} (seed {self.experiment.seed}) {reason}")


def _chunks(number: int, most: int) -> list[dict[str, int | str]]:
    """So many things in at most so many chunks."""
    edges = np.linspace(0, number, min(most, number) + 1).astype(int).tolist()
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
