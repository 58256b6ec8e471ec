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
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, ServerRule, State


@dataclass(frozen=True, kw_only=True)
class FedAvgM(ServerRule):
    """The global vector moves along a running sum of the cohorts' pseudo-gradients."""

    source = "Hsu et al., 2019, arXiv:1909.06335, Eq. 1; without dampening and without Nesterov's form, as in Flower."
    lr: Positive = hyperparameter(1.0, "Server learning rate.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = hyperparameter(0.9, "Decay of the running sum; 0 is `fedavg`.")

    def init_state(self, w: Tensor) -> State:
        """No momentum yet."""
        return {"v": torch.zeros_like(w)}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        v = self.momentum * state["v"] - aggregate.delta
        return w - self.lr * v, {"v": v}
