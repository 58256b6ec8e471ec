"""A moving average of global vectors, for clients to imitate.

Legend: `w, ema: (P,)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedsam.config import Component, Named
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, State, Wrapping

FEDDYN = Component(name="feddyn")


@dataclass(frozen=True, kw_only=True)
class Ema(Wrapping):
    """Sends an exponential moving average of the global vectors along; the inner rule moves the global vector."""

    source = (
        "Li et al., 2025, One arrow, two hawks: sharpness-aware minimization for federated learning via global model trajectory, ICML, "
        "openreview 80mK2Mqaph (FedGMT), as in the authors' code. Clients use it through correction `ema_teacher`."
    )
    inner: Named = FEDDYN
    decay: Annotated[float, Field(ge=0, lt=1)] = hyperparameter(0.95, "Weight of the old average; the first is the initial global vector.")

    def init_state(self, w: Tensor) -> State:
        """The average starts at the global vector."""
        return {**super().init_state(w), "ema": w}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The average too."""
        return {**super().broadcast(w, state), "ema": state["ema"]}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        w, state = super().server_step(w, state, aggregate)
        return w, {**state, "ema": self.decay * state["ema"] + (1 - self.decay) * w}
