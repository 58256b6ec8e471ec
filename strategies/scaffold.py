"""SCAFFOLD's server.

Legend: `w, c: (P,)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.base import Aggregate, State, Wrapping


@dataclass(frozen=True, kw_only=True)
class Scaffold(Wrapping):
    """Keeps the mean of the clients' control variates and sends it along; the inner rule moves the global vector."""

    source = "Karimireddy et al., 2020, arXiv:1910.06378, Algorithm 1. Clients need correction `control_variate`."

    @property
    def expects(self) -> tuple[str, ...]:
        """The change of the clients' control variates."""
        return (*super().expects, "population.c")

    @property
    def mirrors(self) -> tuple[str, ...]:
        """The clients' control variates."""
        return (*super().mirrors, "c")

    def init_state(self, w: Tensor) -> State:
        """A zero control variate."""
        return {**super().init_state(w), "c": torch.zeros_like(w)}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The control variate too."""
        return {**super().broadcast(w, state), "c": state["c"]}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        w, state = super().server_step(w, state, aggregate)
        return w, {**state, "c": state["c"] + aggregate.population["c"]}
