"""FedGF's server.

Legend: `w, wp: (P,)`; `share: (1,)` weight of the global perturbation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsam.config import Count, NonNegative
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, ServerRule, State
from strategies.fedavg import FedAvg


@dataclass(frozen=True, kw_only=True)
class FedGF(ServerRule):
    """FedAvg that sends a perturbed global vector along; its weight grows with how far clients stray."""

    source = (
        "Lee and Yoon, 2024, Rethinking the flat minima searching in federated learning, ICML, openreview 6TM62kpI5c, as in the "
        "authors' code: the weight is the share of the last rounds whose mean |delta| exceeded a threshold. Clients need correction "
        "`global_point`."
    )
    rho: NonNegative = hyperparameter(0.05, "Radius of the global perturbation, in units of the parameters' L2 norm.")
    threshold: NonNegative = hyperparameter(0.2, "Mean |delta| above which a round counts, the paper's T_D.")
    window: Count = hyperparameter(30, "Rounds that are remembered.")

    def init_state(self, w: Tensor) -> State:
        """No perturbation, no rounds remembered."""
        return {"wp": w, "share": 0.0, "far": ()}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The perturbed vector and its weight too."""
        return {"w": w, "wp": state["wp"], "share": w.new_full((1,), state["share"])}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        new, _ = FedAvg().server_step(w, {}, aggregate)
        far = (*state["far"], float(aggregate.norm > self.threshold))[-self.window :]
        back = (w - new) / ((w - new).norm() + torch.finfo(w.dtype).tiny)  # which leaves every norm but 0 as it is
        return new, {"wp": new + self.rho * back, "share": sum(far) / len(far), "far": far}
