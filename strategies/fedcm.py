"""FedCM's server.

Legend: `w, delta, m: (P,)`; `m` in units of a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.base import Aggregate, State, Wrapping


@dataclass(frozen=True, kw_only=True)
class FedCM(Wrapping):
    """Sends the last round's mean step along, as a momentum for clients; the inner rule moves the global vector."""

    source = (
        "Xu et al., 2021, arXiv:2106.10874, Algorithm 2: m = -mean(delta) / (local steps x local learning rate), both of the round "
        "that gave delta: the mean over clients of the sums of their rates. Clients need correction `client_momentum`."
    )

    def init_state(self, w: Tensor) -> State:
        """No momentum yet."""
        return {**super().init_state(w), "m": torch.zeros_like(w)}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The momentum too."""
        return {**super().broadcast(w, state), "m": state["m"]}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        w, state = super().server_step(w, state, aggregate)
        return w, {**state, "m": -aggregate.delta / aggregate.reach}
