"""The shell around Flower's own strategies, which aggregate whole models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from flwr.app import Message

from fedsam.messages import codec
from fedsam.messages.codec import PartialSum
from strategies.cohort import CohortStrategy
from strategies.robust import FlowerRule
from strategies.round import RoundConfig, RunError


class FlowerCohort(CohortStrategy):
    """Cohorts, checks and records as in `CohortStrategy`; the aggregation is a Flower strategy's."""

    reply: Literal["delta", "model"] = "model"

    def __init__(self, rule: FlowerRule, round_config: RoundConfig) -> None:
        super().__init__(rule, round_config)
        self._flower, self._min_updates = rule.strategy(), rule.min_updates()

    def advance(self, round: int, total: PartialSum, replies: Sequence[Message]) -> None:
        """As `CohortStrategy.advance`. Raises `RunError` if too few updates are left."""
        if len(total.nodes) < self._min_updates:
            name = type(self.rule).__name__
            raise RunError(
                f"round {round} (seed {self.round_config.seed}): {name} needs {self._min_updates} updates, {len(total.nodes)} could be used"
            )
        usable = {reply.metadata.src_node_id: reply for reply in replies if not reply.has_error()}
        record, _ = self._flower.aggregate_train(round, [usable[node] for node in total.nodes])
        assert record is not None
        vectors = codec.tensors(record)
        self.w, self.buffers = vectors["w"], vectors.get("buffers", self.buffers)

    def _partial_sum(self, reply: Message) -> PartialSum:
        return replace(super()._partial_sum(reply), vectors={})  # checked here, aggregated by the Flower strategy
