"""The shell around every server rule: samples the cohort, sends the broadcast, combines the updates. It holds no formula but the mean.

Legend: `w, delta: (P,)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsam import wire
from fedsam.seeds import stream
from strategies.base import Aggregate, ServerRule, State


class RunError(RuntimeError):
    """A client failed or sent what cannot be used; the message names client, round and seed."""


@dataclass(frozen=True)
class Exchange:
    """What crossed the network in one round, and what came of it.

    Attributes:
        cohort: The clients asked, ascending.
        metrics: Each client's measured cost and loss, in cohort order.
        bytes_down: To the whole cohort.
        bytes_up: From the whole cohort.
        seconds: From the first broadcast to the new global vector.
    """

    round: int
    cohort: tuple[int, ...]
    metrics: tuple[Mapping[str, float], ...]
    bytes_down: int
    bytes_up: int
    seconds: float


class CohortStrategy(Strategy):
    """A Flower strategy that runs a `ServerRule` over cohorts drawn from the population by seed.

    Args:
        clients: Population; the cohort of a round is `cohort` of them, drawn without replacement.
        lr: Local learning rate of a round, for rules that need it.
        evaluate_clients: Also have each round's cohort evaluate the new vector on its own examples.

    Attributes:
        w: Current global vector (P,); None before the start.
        last: What happened in the latest round; None before the first.
        client_measures: Mean accuracy and loss of the latest global vector on its cohort's own examples, if clients evaluate.
    """

    def __init__(
        self, rule: ServerRule, *, clients: int, cohort: int, seed: int, lr: Callable[[int], float], evaluate_clients: bool = False
    ) -> None:
        self.rule = rule
        self.clients = clients
        self.cohort_size = cohort
        self.seed = seed
        self.lr = lr
        self.evaluate_clients = evaluate_clients
        self.w: Tensor | None = None
        self.state: State = {}
        self.buffers = torch.empty(0)
        self.last: Exchange | None = None
        self.client_measures: Mapping[str, float] = {}
        self._nodes: dict[int, int] = {}
        self._started = 0.0
        self._bytes_down = 0
        self._cohort: tuple[int, ...] = ()

    @property
    def evaluated(self) -> Tensor:
        """The vector (P,) that stands for the model."""
        if self.w is None:
            raise RuntimeError("the strategy has not started: it has no global vector yet")
        return self.rule.evaluated(self.w, self.state)

    def begin(self, w: Tensor, buffers: Tensor) -> None:
        """Start from the global vector `w` (P,) with running statistics `buffers` (Q,), empty where there are none."""
        self.w, self.buffers, self.state = w, buffers, self.rule.init_state(w)

    def sample(self, round: int) -> tuple[int, ...]:
        """The cohort of a round: client numbers, ascending; they depend on seed and round alone."""
        chosen = stream(self.seed, "cohort", round).choice(self.clients, size=self.cohort_size, replace=False)
        return tuple(int(client) for client in np.sort(chosen))

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """One message per client of the cohort, all sharing one ArrayRecord."""
        self._started = time.perf_counter()
        if self.w is None:
            received = wire.tensors(arrays)
            self.begin(received["w"], received.get("buffers", torch.empty(0)))
        self._cohort = self.sample(server_round)
        return self._messages("train", server_round, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The server step with the weighted mean of the updates; nothing changes unless every client's update can be used."""
        updates = self._updates(server_round, list(replies))
        sent = self._aggregate(server_round, updates)
        assert self.w is not None
        self.w, self.state = self.rule.server_step(self.w, self.state, sent)
        if self.buffers.numel():
            self.buffers = _mean([u.vectors["buffers"] for u in updates], self._weights(updates))
        self.last = Exchange(
            round=server_round,
            cohort=self._cohort,
            metrics=tuple(update.metrics for update in updates),
            bytes_down=self._bytes_down * len(self._cohort),
            bytes_up=sum(wire.count_bytes(update.vectors) for update in updates),
            seconds=time.perf_counter() - self._started,
        )
        return wire.arrays({"w": self.w}), None

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """The cohort again, if clients are to evaluate."""
        return self._messages("evaluate", server_round, grid) if self.evaluate_clients else []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean of the clients' accuracies and losses, weighted by examples."""
        records = [r for reply in replies for r in self._content(server_round, reply).metric_records.values()]
        if not records:
            return None
        weights = np.array([float(str(r["num-examples"])) for r in records])
        mean = {name: float(np.average([float(str(r[name])) for r in records], weights=weights)) for name in ("accuracy", "loss")}
        self.client_measures = {f"client_{name}": value for name, value in mean.items()}
        return MetricRecord(dict(self.client_measures))

    def summary(self) -> None:
        """Nothing to log: the results hold the configuration."""

    def _messages(self, kind: str, round: int, grid: Grid) -> list[Message]:
        assert self.w is not None
        vectors = dict(self.rule.broadcast(self.w, self.state)) if kind == "train" else {"w": self.evaluated}
        if self.buffers.numel():
            vectors["buffers"] = self.buffers
        self._bytes_down = wire.count_bytes(vectors)
        record, nodes = wire.arrays(vectors), self._population(grid)
        return [
            Message(wire.encode_broadcast(record, round), dst_node_id=nodes[client], message_type=kind, group_id=str(round))
            for client in self._cohort
        ]

    def _population(self, grid: Grid) -> Mapping[int, int]:
        """Node of each client; asked once, of the nodes themselves where the grid does not know."""
        if not self._nodes:
            known = getattr(grid, "nodes_by_partition", None)
            self._nodes = dict(known) if known is not None else _ask(grid, self.clients)
        return self._nodes

    def _content(self, round: int, reply: Message) -> RecordDict:
        if reply.has_error():
            raise RunError(self._where(round, reply, f"failed: {reply.error.reason}"))
        return reply.content

    def _where(self, round: int, reply: Message, what: str) -> str:
        client = next((c for c, node in self._nodes.items() if node == reply.metadata.src_node_id), "?")
        return f"client {client} in round {round} (seed {self.seed}) {what}"

    def _updates(self, round: int, replies: Sequence[Message]) -> list[wire.Update]:
        if len(replies) != len(self._cohort):
            raise RunError(f"round {round} (seed {self.seed}): {len(replies)} of {len(self._cohort)} clients replied in time")
        order = {self._nodes[client]: position for position, client in enumerate(self._cohort)}
        updates = []
        for reply in sorted(replies, key=lambda reply: order[reply.metadata.src_node_id]):
            update = wire.decode_update(self._content(round, reply))
            problem = self._problem(update)
            if problem:
                raise RunError(self._where(round, reply, problem))
            updates.append(update)
        return updates

    def _problem(self, update: wire.Update) -> str | None:
        assert self.w is not None
        delta = update.vectors.get("delta")
        if delta is None or delta.shape != self.w.shape or delta.dtype != self.w.dtype:
            got = "no delta" if delta is None else f"a delta of shape {tuple(delta.shape)} and type {delta.dtype}"
            return f"sent {got}; expected shape {tuple(self.w.shape)} and type {self.w.dtype}"
        bad = [name for name, vector in update.vectors.items() if not bool(torch.isfinite(vector).all())]
        if bad:
            return f"sent a non-finite {bad[0]}: its local training diverged; a smaller client.optimizer.lr or a clip_norm may help"
        return None

    def _weights(self, updates: Sequence[wire.Update]) -> list[float]:
        return [update.metrics["num-examples"] if self.rule.weights == "examples" else 1.0 for update in updates]

    def _aggregate(self, round: int, updates: Sequence[wire.Update]) -> Aggregate:
        weights = self._weights(updates)
        names = [name for name in updates[0].vectors if "." in name]
        combined = {
            name: _mean([u.vectors[name] for u in updates], weights)
            if name.startswith("mean.")
            else _mean([u.vectors[name] for u in updates], [1.0] * len(updates)) * (len(updates) / self.clients)
            for name in names
        }
        scalars = [name for name in updates[0].metrics if name.startswith("sent.")]
        return Aggregate(
            delta=_mean([u.vectors["delta"] for u in updates], weights),
            mean={name.removeprefix("mean."): v for name, v in combined.items() if name.startswith("mean.")},
            population={name.removeprefix("population."): v for name, v in combined.items() if name.startswith("population.")},
            metrics={
                name.removeprefix("sent."): float(np.average([u.metrics[name] for u in updates], weights=weights))
                for name in ["steps", *scalars]
            },
            round=round,
            lr=self.lr(round),
            cohort=len(updates),
            clients=self.clients,
        )


def _mean(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted mean of vectors (P,), added up in the given order."""
    total = torch.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        total.add_(vector, alpha=weight / sum(weights))
    return total


def _ask(grid: Grid, clients: int) -> dict[int, int]:
    """Client number -> node id, from the nodes' own answers."""
    queries = [Message(RecordDict(), dst_node_id=node, message_type="query.partition") for node in grid.get_node_ids()]
    answers = {int(str(reply.content["metrics"]["partition-id"])): reply.metadata.src_node_id for reply in grid.send_and_receive(queries)}
    missing = sorted(set(range(clients)) - set(answers))
    if missing:
        raise RunError(f"data.clients is {clients} but no node answers for client {missing[0]}; connect as many nodes as clients")
    return answers
