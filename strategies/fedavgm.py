"""Federated averaging with server momentum.

Legend: `w, delta, v: (P,)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsam.config import Positive
from strategies.base import Aggregate, ServerRule, State


@dataclass(frozen=True, kw_only=True)
class FedAvgM(ServerRule):
    """The global vector moves along a running sum of the cohorts' pseudo-gradients.

    Source: Hsu et al., 2019, arXiv:1909.06335, Eq. 1; without dampening and without Nesterov's form, as in Flower.

    Attributes:
        lr: Server learning rate.
        momentum: Decay of the running sum; 0 is `fedavg`.
    """

    lr: Positive = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def init_state(self, w: Tensor) -> State:
        """No momentum yet."""
        return {"v": torch.zeros_like(w)}

    def server_step(self, w: Tensor, state: State, sent: Aggregate) -> tuple[Tensor, State]:
        """As `ServerRule.server_step`."""
        v = self.momentum * state["v"] - sent.delta
        return w - self.lr * v, {"v": v}
