"""FedACG's server.

Legend: `w, z, delta, m: (P,)`; `z` the point that clients start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, ServerRule, State


@dataclass(frozen=True, kw_only=True)
class FedACG(ServerRule):
    """Clients start where the server's momentum will have carried the global vector."""

    source = (
        "Kim et al., 2022, arXiv:2201.03172, Algorithm 2 (FedACG). The paper's penalty is correction `proximal` with mu twice its "
        'beta, inside the clip (`client.clip = "everything"`).'
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = hyperparameter(0.85, "Decay of the running sum of deltas; 0 is `fedavg`.")

    def init_state(self, w: Tensor) -> State:
        """No momentum yet."""
        return {"m": torch.zeros_like(w)}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """z = w + momentum m, in place of w."""
        return {"w": w + self.momentum * state["m"]}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        """Deltas are measured from z."""
        m = self.momentum * state["m"] + aggregate.delta
        return w + m, {"m": m}
