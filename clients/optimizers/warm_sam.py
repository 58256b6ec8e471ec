"""SAM with a radius that warms up over the rounds.

Legend: `w, g1, g2, e: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, Task
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class WarmSAM(SAM):
    """SAM; its radius grows linearly over the first rounds."""

    source = "Caldarola et al., 2024, arXiv:2412.03752 (FedGloSS), client side. Outside a federation every step belongs to round 1."
    cost = StepCost(backward=2)
    reduces_to_base = {"rho": 0.0, "warmup_rounds": 0}
    warmup_rounds: Annotated[int, Field(ge=0)] = hyperparameter(0, "Rounds after which the radius is rho; 0: from the start.")
    warmup_start: NonNegative = hyperparameter(0.001, "Radius of the first round, if there is a warm-up.")

    def radius(self, round: int) -> float:
        """The perturbation radius of a round, from 1."""
        if round > self.warmup_rounds:
            return self.rho
        return self.warmup_start + (self.rho - self.warmup_start) * (round - 1) / self.warmup_rounds

    def init(self, w: Tensor, task: Task) -> State:
        """The radius of the round."""
        return {"rho": self.radius(task.round)}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """The radius is that of the new round."""
        return {**state, **self.init(w, task)}

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """SAM's, with this round's radius."""
        g, losses, _ = SAM.gradient(replace(self, rho=state["rho"]), w, state, step)
        return g, losses, state
