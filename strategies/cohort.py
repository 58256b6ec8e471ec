"""The shell around every server rule: sends the broadcast, checks and combines the updates. It holds no formula but the mean.

Legend: `w, delta: (P,)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsam import wire
from fedsam.meter import Energy, Meter
from strategies.base import Aggregate, ServerRule, State
from strategies.flower import FlowerRule
from strategies.sampling import Sampler


class RunError(RuntimeError):
    """A client failed or sent what cannot be used; the message names client, round and seed."""


@dataclass(frozen=True)
class Exchange:
    """What crossed the network in one round, and what came of it.

    Attributes:
        metrics: Measured cost and loss of each client whose update was used, in ascending order of clients.
        failures: What went wrong, of each other client that was asked.
        dropped: Clients that were sampled and left before they were asked.
        bytes_down: To the whole cohort.
        bytes_up: From the clients whose update was used.
        seconds: From the first broadcast to the new global vector.
        energy: Joules in that time; None where they are not measured.
    """

    round: int
    metrics: Mapping[int, Mapping[str, float]]
    failures: Mapping[int, str]
    dropped: tuple[int, ...]
    bytes_down: int
    bytes_up: int
    seconds: float
    energy: float | None


@dataclass(frozen=True)
class Accepted:
    """A client's update that can be used, and the message it came in."""

    update: wire.Update
    message: Message


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run's rounds are held.

    Attributes:
        clients: Population.
        sample: The cohort of a round: client numbers, ascending.
        leaves: Whether a sampled client drops out of a round before it is asked.
        rounds: Rounds of the whole run.
        seed: Named in errors.
        lr: Local learning rate of a round, for rules that need it.
        weights: Weights of the clients in means.
        allow_failures: Go on without clients that fail.
        acknowledge: Tell each client which of its updates was accepted last, because it keeps state that must not run ahead.
        evaluate_clients: Also have each round's cohort evaluate the new vector on its own examples.
        energy: Counts the joules that training takes; None: not measured.
    """

    clients: int
    sample: Sampler
    leaves: Callable[[int, int], bool] = field(default=lambda round, client: False)
    rounds: int = 1
    seed: int = 0
    lr: Callable[[int], float] = field(default=lambda round: 1.0)
    weights: Literal["examples", "uniform"] = "examples"
    allow_failures: bool = False
    acknowledge: bool = False
    evaluate_clients: bool = False
    energy: Energy | None = None


class CohortStrategy(Strategy):
    """A Flower strategy that runs a `ServerRule` over the cohorts of a population.

    Attributes:
        w: Current global vector (P,); None before the start.
        state: The rule's state.
        buffers: Current running statistics (Q,).
        last: What happened in the latest round; None before the first.
        client_measures: Mean accuracy and loss of the latest global vector on its cohort's own examples, if clients evaluate.
    """

    reply: Literal["delta", "model"] = "delta"

    def __init__(self, rule: ServerRule, plan: Plan) -> None:
        self.rule = rule
        self.plan = plan
        self.w: Tensor | None = None
        self.state: State = {}
        self.buffers = torch.empty(0)
        self.last: Exchange | None = None
        self.client_measures: Mapping[str, float] = {}
        self._nodes: dict[int, int] = {}
        self._accepted: dict[int, int] = {}
        self._meter = Meter()
        self._bytes_down = 0
        self._cohort: tuple[int, ...] = ()
        self._dropped: tuple[int, ...] = ()

    @property
    def evaluated(self) -> Tensor:
        """The vector (P,) that stands for the model."""
        if self.w is None:
            raise RuntimeError("the strategy has not started: it has no global vector yet")
        return self.rule.evaluated(self.w, self.state)

    def begin(self, w: Tensor, buffers: Tensor) -> None:
        """Start from the global vector `w` (P,) with running statistics `buffers` (Q,), empty where there are none."""
        self.w, self.buffers, self.state = w, buffers, self.rule.init_state(w)

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """One message per client of the cohort that stays, all sharing one ArrayRecord."""
        self._meter = Meter(self.plan.energy)
        if self.w is None:
            received = wire.tensors(arrays)
            self.begin(received["w"], received.get("buffers", torch.empty(0)))
        assert self.w is not None
        sampled = self.plan.sample(server_round)
        self._dropped = tuple(client for client in sampled if self.plan.leaves(server_round, client))
        self._cohort = tuple(client for client in sampled if client not in self._dropped)
        return self._messages("train", server_round, self.rule.broadcast(self.w, self.state), grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next global vector from the updates that can be used; nothing changes if others are not allowed to fail.

        A round whose whole cohort has dropped out has no update: the vector, the rule's state and the statistics stay.

        Raises:
            RunError: A client failed and that is not allowed, or all failed.
        """
        accepted, failures = self._sorted_out(server_round, replies)
        if accepted:
            self.advance(server_round, accepted)
        self._accepted |= dict.fromkeys(accepted, server_round)
        spent = self._meter.read()
        self.last = Exchange(
            round=server_round,
            metrics={client: a.update.metrics for client, a in accepted.items()},
            failures=failures,
            dropped=self._dropped,
            bytes_down=self._bytes_down * len(self._cohort),
            bytes_up=sum(wire.count_bytes(a.update.vectors) for a in accepted.values()),
            seconds=spent.seconds,
            energy=spent.energy,
        )
        assert self.w is not None
        return wire.arrays({"w": self.w}), None

    def advance(self, round: int, accepted: Mapping[int, Accepted]) -> None:
        """Replace the global vector, the rule's state and the running statistics by those after the round."""
        assert self.w is not None
        updates = [a.update for a in accepted.values()]
        self.w, self.state = self.rule.server_step(self.w, self.state, self._aggregate(round, updates))
        if self.buffers.numel():
            self.buffers = _mean([u.vectors["buffers"] for u in updates], self._weights(updates))

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """The cohort again, if clients are to evaluate."""
        return self._messages("evaluate", server_round, {"w": self.evaluated}, grid) if self.plan.evaluate_clients else []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean of the clients' accuracies and losses, weighted by examples."""
        failed = [reply for reply in replies if reply.has_error()]
        if failed and not self.plan.allow_failures:
            raise RunError(self._where(self._client(failed[0]), server_round, f"failed: {failed[0].error.reason}"))
        self.client_measures = {}
        records = [r for reply in replies if not reply.has_error() for r in reply.content.values() if isinstance(r, MetricRecord)]
        if not records:
            return None
        weights = np.array([float(str(r["num-examples"])) for r in records])
        mean = {name: float(np.average([float(str(r[name])) for r in records], weights=weights)) for name in ("accuracy", "loss")}
        self.client_measures = {f"client_{name}": value for name, value in mean.items()}
        return MetricRecord(dict(self.client_measures))

    def summary(self) -> None:
        """Nothing to log: the results hold the configuration."""

    def _messages(self, kind: str, round: int, vectors: Mapping[str, Tensor], grid: Grid) -> list[Message]:
        vectors = {**vectors, "buffers": self.buffers} if self.buffers.numel() else vectors
        self._bytes_down = wire.count_bytes(vectors)
        record, nodes = wire.arrays(vectors), self._population(grid)
        return [
            Message(
                wire.encode_broadcast(
                    record, round, reply=self.reply, accepted=self._accepted.get(client, 0) if self.plan.acknowledge else None
                ),
                dst_node_id=nodes[client],
                message_type=kind,
                group_id=str(round),
            )
            for client in self._cohort
        ]

    def _population(self, grid: Grid) -> Mapping[int, int]:
        """Node of each client; asked once, of the nodes themselves where the grid does not know."""
        if not self._nodes:
            known = getattr(grid, "nodes_by_partition", None)
            self._nodes = dict(known) if known is not None else _ask(grid, self.plan.clients)
        return self._nodes

    def _client(self, reply: Message) -> int:
        return next(client for client, node in self._nodes.items() if node == reply.metadata.src_node_id)

    def _where(self, client: int, round: int, what: str) -> str:
        return f"client {client} in round {round} (seed {self.plan.seed}) {what}"

    def _sorted_out(self, round: int, replies: Iterable[Message]) -> tuple[dict[int, Accepted], dict[int, str]]:
        """The cohort's usable updates and the reasons of the others, each in ascending order of clients."""
        came = {reply.metadata.src_node_id: reply for reply in replies}
        checked = {client: self._checked(came.get(self._nodes[client])) for client in self._cohort}
        accepted = {client: result for client, result in checked.items() if isinstance(result, Accepted)}
        failures = {client: result for client, result in checked.items() if isinstance(result, str)}
        if failures and not (self.plan.allow_failures and accepted):
            raise RunError(self._where(*next((client, round, what) for client, what in failures.items())))
        return accepted, failures

    def _checked(self, reply: Message | None) -> Accepted | str:
        """The update in a reply, or what is wrong with it."""
        if reply is None:
            return "did not reply in time"
        if reply.has_error():
            return f"failed: {reply.error.reason}"
        try:
            update = wire.decode_update(reply.content)
        except wire.WireError as error:
            return f"sent a malformed update: {error}"
        return self._problem(update) or Accepted(update, reply)

    def _problem(self, update: wire.Update) -> str | None:
        assert self.w is not None
        moved = "delta" if self.reply == "delta" else "w"
        vectors = [moved, *(name for name in self.rule.expects if not name.startswith("metrics.") and name != "population.delta")]
        expected = dict.fromkeys(vectors, self.w) | ({"buffers": self.buffers} if self.buffers.numel() else {})
        for name, like in expected.items():
            got = update.vectors.get(name)
            if got is None or got.shape != like.shape or got.dtype != like.dtype:
                what = f"no {name}" if got is None else f"a {name} of shape {tuple(got.shape)} and type {got.dtype}"
                return f"sent {what}; expected shape {tuple(like.shape)} and type {like.dtype}"
        bad = [name for name, vector in update.vectors.items() if not bool(torch.isfinite(vector).all())]
        if bad:
            return f"sent a non-finite {bad[0]}: its local training diverged; a smaller client.optimizer.lr or a clip_norm may help"
        return None

    def _weights(self, updates: Sequence[wire.Update]) -> list[float]:
        return [update.metrics["num-examples"] if self.plan.weights == "examples" else 1.0 for update in updates]

    def _aggregate(self, round: int, updates: Sequence[wire.Update]) -> Aggregate:
        weights, size = self._weights(updates), len(updates)

        def average(values: Iterable[float]) -> float:
            return float(np.average(list(values), weights=weights))

        def names(kind: str) -> list[str]:
            return [name.removeprefix(kind) for name in self.rule.expects if name.startswith(kind)]

        def over_population(name: str) -> Tensor:
            vectors = [u.vectors["delta" if name == "delta" else f"population.{name}"] for u in updates]
            return _mean(vectors, [1.0] * size) * (size / self.plan.clients)

        norms = [u.metrics["delta-norm"] for u in updates]
        return Aggregate(
            delta=_mean([u.vectors["delta"] for u in updates], weights),
            mean={name: _mean([u.vectors[f"mean.{name}"] for u in updates], weights) for name in names("mean.")},
            population={name: over_population(name) for name in names("population.")},
            metrics={
                "steps": average(u.metrics["steps"] for u in updates),
                **{name: average(u.metrics[f"sent.{name}"] for u in updates) for name in names("metrics.")},
            },
            norm=float(np.mean(norms)),
            squared_norm=average(norm**2 for norm in norms),
            round=round,
            rounds=self.plan.rounds,
            lr=self.plan.lr(round),
            cohort=size,
            clients=self.plan.clients,
        )


class FlowerCohort(CohortStrategy):
    """Cohorts, checks and records as in `CohortStrategy`; the aggregation is a Flower strategy's."""

    reply: Literal["delta", "model"] = "model"

    def __init__(self, rule: FlowerRule, plan: Plan) -> None:
        super().__init__(rule, plan)
        self._flower, self._least = rule.strategy(), rule.least()

    def advance(self, round: int, accepted: Mapping[int, Accepted]) -> None:
        """As `CohortStrategy.advance`. Raises `RunError` if too few updates are left."""
        if len(accepted) < self._least:
            name = type(self.rule).__name__
            raise RunError(f"round {round} (seed {self.plan.seed}): {name} needs {self._least} updates, {len(accepted)} could be used")
        record, _ = self._flower.aggregate_train(round, [a.message for a in accepted.values()])
        assert record is not None
        vectors = wire.tensors(record)
        self.w, self.buffers = vectors["w"], vectors.get("buffers", self.buffers)


def _mean(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted mean of vectors (P,), added up in the given order."""
    total, whole = torch.zeros_like(vectors[0]), sum(weights)
    for vector, weight in zip(vectors, weights, strict=True):
        total.add_(vector, alpha=weight / whole)
    return total


def _ask(grid: Grid, clients: int) -> dict[int, int]:
    """Client number -> node id, from the nodes' own answers."""
    queries = [Message(RecordDict(), dst_node_id=node, message_type="query.partition") for node in grid.get_node_ids()]
    answers = {int(str(reply.content["metrics"]["partition-id"])): reply.metadata.src_node_id for reply in grid.send_and_receive(queries)}
    missing = sorted(set(range(clients)) - set(answers))
    if missing:
        raise RunError(f"data.clients is {clients} but no node answers for client {missing[0]}; connect as many nodes as clients")
    return answers
