"""Federated averaging.

Legend: `w, delta: (P,)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedsam.config import Positive
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, ServerRule, State


@dataclass(frozen=True, kw_only=True)
class FedAvg(ServerRule):
    """The global vector moves by the mean of the clients' deltas."""

    source = "McMahan et al., 2017, arXiv:1602.05629, Algorithm 1; with lr = 1 and example weights it is the mean of the clients' models."
    lr: Positive = hyperparameter(1.0, "Server learning rate.")

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        return w + self.lr * aggregate.delta, state
