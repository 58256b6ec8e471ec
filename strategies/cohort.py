"""The shell around every server rule: sends the broadcast, has the updates checked and added up, and says who failed.

Legend: `w, delta: (P,)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsam.messages import aggregation, codec
from fedsam.messages.codec import AggregationSpec, PartialSum
from fedsam.system.cost import Meter
from strategies.base import ServerRule, State
from strategies.round import RoundConfig, RoundResult, RunError, client_error, combined


class CohortStrategy(Strategy):
    """A Flower strategy that runs a `ServerRule` over the cohorts of a population.

    What Flower's loop gives holds no arrays: `w` is the global vector, which would be encoded for nobody.

    Attributes:
        w: Current global vector (P,); None before the start.
        state: The rule's state.
        buffers: Current running statistics (Q,).
        constants: Digest of the server's tensors that do not travel, which clients compare with theirs; None: they do not.
        last: What happened in the latest round; None before the first.
        client_measures: Mean accuracy and loss of the latest global vector on its cohort's own examples, if clients evaluate.
        resumed_round: The round after which `restore` has the run go on; Flower's loop counts rounds from there. 0: none.
    """

    reply: Literal["delta", "model"] = "delta"

    def __init__(self, rule: ServerRule, round_config: RoundConfig) -> None:
        self.rule = rule
        self.round_config = round_config
        self.w: Tensor | None = None
        self.state: State = {}
        self.buffers = torch.empty(0)
        self.constants: str | None = None
        self.last: RoundResult | None = None
        self.client_measures: Mapping[str, float] = {}
        self.resumed_round = 0
        self._nodes: dict[int, int] = {}
        self._clients: dict[int, int] = {}
        self._accepted: dict[int, int] = {}
        self._meter = Meter()
        self._bytes_down = 0
        self._cohort: tuple[int, ...] = ()
        self._sent: Sequence[Message] = ()
        self._grid: Grid | None = None
        self._dropped: tuple[int, ...] = ()

    @property
    def evaluated(self) -> Tensor:
        """The vector (P,) that stands for the model."""
        if self.w is None:
            raise RuntimeError("the strategy has not started: it has no global vector yet")
        return self.rule.evaluated(self.w, self.state)

    def begin(self, w: Tensor, buffers: Tensor, constants: str | None = None) -> None:
        """Start from the global vector `w` (P,) with running statistics `buffers` (Q,), empty where there are none."""
        self.w, self.buffers, self.constants, self.state = w, buffers, constants, self.rule.init_state(w)

    def snapshot(self) -> dict[str, Any]:
        """All that the rounds to come depend on, the clients' states aside: tensors and plain values, nested."""
        return {"w": self.w, "buffers": self.buffers, "state": self.state, "accepted": sorted(self._accepted.items())}

    def restore(self, round: int, snapshot: Mapping[str, Any]) -> None:
        """Go on after a round, from what `snapshot` gave then; the run has begun as it did the first time."""
        self.resumed_round, self.w, self.buffers, self.state = round, snapshot["w"], snapshot["buffers"], snapshot["state"]
        self._accepted = {client: last for client, last in snapshot["accepted"]}

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """One message per client of the cohort that stays, all sharing one ArrayRecord."""
        self._meter, server_round = Meter(self.round_config.energy), server_round + self.resumed_round
        if self.w is None:
            received = codec.tensors(arrays)
            self.begin(received["w"], received.get("buffers", torch.empty(0)))
        assert self.w is not None
        sampled = self.round_config.sample(server_round)
        self._dropped = tuple(client for client in sampled if self.round_config.drops_out(server_round, client))
        self._cohort, self._grid = tuple(client for client in sampled if client not in self._dropped), grid
        self._sent = self._messages("train", server_round, self.rule.broadcast(self.w, self.state), grid)
        return self._sent

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the step to the next global vector, `w`, from the updates that can be used; it is not encoded for Flower's loop.

        Nothing changes if a client failed and that is not allowed.

        A round whose whole cohort has dropped out has no update: the vector, the rule's state and the statistics stay.

        Raises:
            RunError: A client failed and that is not allowed, or too few updates can be used.
        """
        arrived, server_round = list(replies), server_round + self.resumed_round
        total, retried = self._total(arrived, self._partial_sum)
        failures = self._failures([total])
        self._judge(server_round, len(total.nodes), failures)
        if total.nodes:
            self.advance(server_round, total, arrived)
        clients = [self._clients[node] for node in total.nodes]
        self._accepted |= dict.fromkeys(clients, server_round)
        spent = self._meter.read()
        self.last = RoundResult(
            round=server_round,
            metrics={clients[i]: {name: values[i] for name, values in total.metrics.items()} for i in np.argsort(clients)},
            failures=failures,
            retried=retried,
            dropped=self._dropped,
            bytes_down=self._bytes_down * (len(self._cohort) + len(retried)),
            bytes_up=total.bytes,
            seconds=spent.seconds,
            energy=spent.energy,
        )
        return None, None

    def advance(self, round: int, total: PartialSum, replies: Sequence[Message]) -> None:
        """Replace the global vector, the rule's state and the running statistics by those after the round."""
        assert self.w is not None
        self.w, self.state = self.rule.server_step(self.w, self.state, combined(round, total, self.round_config))
        self.buffers = total.vectors.get("buffers", self.buffers)

    def configure_evaluate(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """The cohort again, if clients are to evaluate."""
        server_round += self.resumed_round
        self._sent = self._messages("evaluate", server_round, {"w": self.evaluated}, grid) if self.round_config.evaluate_clients else []
        return self._sent

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Mean of the clients' accuracies and losses, weighted by examples; None where there are none.

        Raises:
            RunError: A client failed and that is not allowed. The quorum is of updates alone.
        """
        self.client_measures = {}
        if not self._sent:
            return None
        got, retried = self._total(list(replies), aggregation.partial_evaluation)
        failures = self._failures([got])
        self._refuse(server_round + self.resumed_round, failures)
        assert self.last is not None
        self.last = replace(self.last, evaluate_failures=failures, evaluate_retried=retried)
        if not got.nodes:
            return None
        weights = got.metrics["num-examples"]
        self.client_measures = {f"client_{name}": float(np.average(got.metrics[name], weights=weights)) for name in ("accuracy", "loss")}
        return codec.metrics(self.client_measures)

    def summary(self) -> None:
        """Nothing to log: the results hold the configuration."""

    def _messages(self, kind: str, round: int, vectors: Mapping[str, Tensor], grid: Grid) -> list[Message]:
        vectors = {**vectors, "buffers": self.buffers} if self.buffers.numel() else vectors
        self._bytes_down = codec.count_bytes(vectors)
        record, nodes = codec.arrays(vectors), self._population(grid)
        moved = "delta" if self.reply == "delta" else "w"
        self._spec = AggregationSpec.from_vectors(vectors, self.rule.expects, self.round_config.weights, moved)
        spec = self._spec if kind == "train" and self.reply == "delta" else None
        accepted = {client: self._acknowledged(client) for client in self._cohort}
        common: Any = {"reply": self.reply, "spec": spec, "constants": self.constants, "cohort": len(self._cohort)}
        contents = {  # messages that say the same share their content, as Flower's strategies have it
            last: codec.encode_broadcast(record, round, accepted=last, **common) for last in set(accepted.values())
        }
        return [
            Message(
                contents[accepted[client]],
                dst_node_id=nodes[client],
                message_type=kind,
                group_id=str(round),
                ttl=self.round_config.deadline,  # a late client is as one that was not asked
            )
            for client in self._cohort
        ]

    def _acknowledged(self, client: int) -> int | None:
        return self._accepted.get(client, 0) if self.round_config.acknowledge else None

    def _population(self, grid: Grid) -> Mapping[int, int]:
        """Node of each client; asked once, of the nodes themselves where the grid does not know."""
        if not self._nodes:
            known = getattr(grid, "nodes_by_partition", None)
            self._nodes = dict(known) if known is not None else _ask(grid, self.round_config.clients)
            self._clients = {node: client for client, node in self._nodes.items()}
        return self._nodes

    def _total(self, arrived: list[Message], partial_sum: Callable[[Message], PartialSum]) -> tuple[PartialSum, dict[int, str]]:
        """The sum of the replies to the last messages, and what went wrong the first time, of each client that was asked twice.

        The replies to the second messages are appended to `arrived`.
        """
        sums = self._partial_sums(arrived, [message.metadata.dst_node_id for message in self._sent], partial_sum)
        retried = self._failures(sums) if self.round_config.on_client_error == "retry" else {}
        if retried:
            nodes = [self._nodes[client] for client in retried]
            again = self._again(nodes)
            arrived += again
            sums = [*(replace(summand, failures={}) for summand in sums), *self._partial_sums(again, nodes, partial_sum)]
        return aggregation.total(sums), retried

    def _partial_sums(
        self, replies: Sequence[Message], nodes: Sequence[int], partial_sum: Callable[[Message], PartialSum]
    ) -> list[PartialSum]:
        """The replies of an exchange with `nodes`, added up by shards; the result is the same whether the grid or this process does it."""
        sums, single = list[PartialSum](), dict[int, Message]()
        for reply in replies:
            if not reply.has_error() and (merged := codec.decode_partial_sum(reply.content)) is not None:
                sums.append(merged)
            else:
                single[reply.metadata.src_node_id] = reply
        if single:
            sums += [
                aggregation.total(partial_sum(single[node]) for node in shard if node in single)
                for shard in aggregation.shards(nodes, self.round_config.shard_size)
            ]
        return sorted((summand for summand in sums if summand.nodes or summand.failures), key=self._first)

    def _partial_sum(self, reply: Message) -> PartialSum:
        return aggregation.partial_sum(reply, self._spec)

    def _first(self, summand: PartialSum) -> int:
        return min(self._clients[node] for node in (*summand.nodes, *summand.failures))

    def _failures(self, sums: Sequence[PartialSum]) -> dict[int, str]:
        """What went wrong, of each client of the cohort whose reply cannot be used, in ascending order."""
        said = {self._clients[node]: what for summand in sums for node, what in summand.failures.items()}
        usable = {self._clients[node] for summand in sums for node in summand.nodes}
        return {client: said.get(client, "did not reply in time") for client in self._cohort if client not in usable}

    def _again(self, nodes: Sequence[int]) -> list[Message]:
        assert self._grid is not None
        old = {message.metadata.dst_node_id: message for message in self._sent}
        messages = [
            Message(
                old[n].content,
                dst_node_id=n,
                message_type=old[n].metadata.message_type,
                group_id=old[n].metadata.group_id,
                ttl=self.round_config.deadline,
            )
            for n in nodes
        ]
        return list(self._grid.send_and_receive(messages, timeout=self.round_config.deadline))

    def _judge(self, round: int, usable: int, failures: Mapping[int, str]) -> None:
        """Raise `RunError` if clients failed that must not, or too many; where all dropped out there is nothing to judge."""
        if not self._cohort:
            return
        self._refuse(round, failures)
        size, quorum = len(self._cohort), self.round_config.quorum
        if usable < max(1, min(size, quorum if isinstance(quorum, int) else ceil(quorum * size))):
            left = f"{usable} of {size} clients are left in round {round} (seed {self.round_config.seed}), server.quorum is {quorum}; "
            raise client_error(round, failures, self.round_config, left)

    def _refuse(self, round: int, failures: Mapping[int, str]) -> None:
        """Raise `RunError` if clients failed that must not; it names the first."""
        if failures and self.round_config.on_client_error != "drop":
            raise client_error(round, failures, self.round_config)


def _ask(grid: Grid, clients: int) -> dict[int, int]:
    """Client number -> node id, from the nodes' own answers."""
    queries = [Message(RecordDict(), dst_node_id=node, message_type="query.partition") for node in grid.get_node_ids()]
    replies = [(codec.decode_answer(reply.content).metrics, reply.metadata.src_node_id) for reply in grid.send_and_receive(queries)]
    answers = {int(metrics["partition-id"]): node for metrics, node in replies}
    missing = sorted(set(range(clients)) - set(answers))
    if missing:
        raise RunError(f"data.clients is {clients} but no node answers for client {missing[0]}; connect as many nodes as clients")
    return answers
