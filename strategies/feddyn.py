"""FedDyn's server.

Legend: `w, delta, h: (P,)`; `h` is the mean of the clients' duals over the population.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.base import Aggregate, ServerRule, State


@dataclass(frozen=True, kw_only=True)
class FedDyn(ServerRule):
    """The mean of the cohort's models, shifted by the mean dual of the population."""

    source = (
        "Acar et al., 2021, arXiv:2111.04263, Algorithm 1, with h = -(dual) / lambda: w <- mean(x_i) + h. There is no server learning "
        "rate. Clients need correction `dual`."
    )
    mirrors = ("h",)

    @property
    def expects(self) -> tuple[str, ...]:
        """What moves the duals: each moves by its client's delta, so nothing more has to be sent."""
        return ("population.delta",)

    def init_state(self, w: Tensor) -> State:
        """A zero dual."""
        return {"h": torch.zeros_like(w)}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        h = state["h"] + aggregate.population["delta"]
        return w + aggregate.delta + h, {**state, "h": h}
