"""What the adaptive servers share.

Legend: `w, delta, m, v: (P,)`; `k` steps taken, this one included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsam.config import NonNegative, Positive
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, ServerRule, State

Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Adaptive(ServerRule):
    """A server step of its own size for each scalar; a subclass says how the second moment moves."""

    source = (
        "Reddi et al., 2021, arXiv:2003.00295, Algorithm 2. The paper wants v to start at tau squared or more; Flower and FL-Simulator "
        "start at 0, as here by default."
    )
    lr: Positive = hyperparameter(0.1, "Server learning rate.")
    beta1: Decay = hyperparameter(0.9, "Decay of the first moment.")
    tau: Positive = hyperparameter(1e-3, "Added to the root of the second moment: the degree of adaptivity.")
    v0: NonNegative = hyperparameter(0.0, "Second moment before the first round.")

    def init_state(self, w: Tensor) -> State:
        """Moments before the first round."""
        return {"m": torch.zeros_like(w), "v": torch.full_like(w, self.v0), "k": 0}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        k = state["k"] + 1
        m = self.beta1 * state["m"] + (1 - self.beta1) * aggregate.delta
        v = self.second_moment(state["v"], aggregate.delta**2)
        return w + self.move(m, v, k), {"m": m, "v": v, "k": k}

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The next second moment, from the squared mean delta."""
        raise TypeError(f"{type(self).__name__} has no second moment")

    def move(self, m: Tensor, v: Tensor, k: int) -> Tensor:
        """Where the global vector goes."""
        return self.lr * m / (v.sqrt() + self.tau)
