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
from strategies.base import Aggregate, ServerRule, State

Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Adaptive(ServerRule):
    """A server step of its own size for each scalar; a subclass says how the second moment moves.

    Source: Reddi et al., 2021, arXiv:2003.00295, Algorithm 2. The paper wants v to start at tau squared or more; Flower and FL-Simulator
    start at 0, as here by default.

    Attributes:
        lr: Server learning rate.
        beta1: Decay of the first moment.
        tau: Added to the root of the second moment: the degree of adaptivity.
        v0: Second moment before the first round.
    """

    lr: Positive = 0.1
    beta1: Decay = 0.9
    tau: Positive = 1e-3
    v0: NonNegative = 0.0

    def init_state(self, w: Tensor) -> State:
        """Moments before the first round."""
        return {"m": torch.zeros_like(w), "v": torch.full_like(w, self.v0), "k": 0}

    def server_step(self, w: Tensor, state: State, sent: Aggregate) -> tuple[Tensor, State]:
        """As `ServerRule.server_step`."""
        k = state["k"] + 1
        m = self.beta1 * state["m"] + (1 - self.beta1) * sent.delta
        v = self.second_moment(state["v"], sent.delta**2)
        return w + self.move(m, v, k), {"m": m, "v": v, "k": k}

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The next second moment, from the squared mean delta."""
        raise TypeError(f"{type(self).__name__} has no second moment")

    def move(self, m: Tensor, v: Tensor, k: int) -> Tensor:
        """Where the global vector goes."""
        return self.lr * m / (v.sqrt() + self.tau)
