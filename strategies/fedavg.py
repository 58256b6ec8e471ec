"""Federated averaging.

Legend: `w, delta: (P,)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedsam.config import Positive
from strategies.base import Aggregate, ServerRule, State


@dataclass(frozen=True, kw_only=True)
class FedAvg(ServerRule):
    """The global vector moves by the mean of the clients' deltas.

    Source: McMahan et al., 2017, arXiv:1602.05629, Algorithm 1; with lr = 1 and example weights it is the mean of the clients' models.

    Attributes:
        lr: Server learning rate.
    """

    lr: Positive = 1.0

    def server_step(self, w: Tensor, state: State, sent: Aggregate) -> tuple[Tensor, State]:
        """As `ServerRule.server_step`."""
        return w + self.lr * sent.delta, state
