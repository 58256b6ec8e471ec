"""The last round's global vector, sent along.

Legend: `w, w_old: (P,)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from strategies.base import Aggregate, State, Wrapping


@dataclass(frozen=True, kw_only=True)
class Previous(Wrapping):
    """Sends the global vector of the round before along; the inner rule moves the global vector."""

    source = (
        "the release of Qu et al., 2024, arXiv:2405.18890 (FedLESAM), whose clients all perturb along the server's last step. Clients "
        'use it through correction `lookback` with `direction = "previous_round"`.'
    )

    def init_state(self, w: Tensor) -> State:
        """As if the global vector had not moved."""
        return {**super().init_state(w), "w_old": w}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The vector of the round before too."""
        return {**super().broadcast(w, state), "w_old": state["w_old"]}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        new, state = super().server_step(w, state, aggregate)
        return new, {**state, "w_old": w}
