"""SAM with a radius that warms up over the rounds.

Legend: `w, g1, g2, e: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import State, Task
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class WarmSAM(SAM):
    """SAM; its radius grows linearly over the first rounds.

    Source: Caldarola et al., 2024, arXiv:2412.03752 (FedGloSS), client side. Outside a federation every step belongs to round 1.
    Cost: forward 0 backward 2 per example and step.

    Attributes:
        warmup_rounds: Rounds after which the radius is rho; 0: from the start.
        warmup_start: Radius of the first round, if there is a warm-up.
    """

    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0, "warmup_rounds": 0}
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    warmup_start: NonNegative = 0.001

    def radius(self, round: int) -> float:
        """The perturbation radius of a round, from 1."""
        if round > self.warmup_rounds:
            return self.rho
        return self.warmup_start + (self.rho - self.warmup_start) * (round - 1) / self.warmup_rounds

    def init(self, w: Tensor, task: Task) -> State:
        """The radius of the round."""
        return {"rho": self.radius(task.round)}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """As `LocalOptimizer.resume`: the radius is that of the new round."""
        return {**state, **self.init(w, task)}

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: SAM's, with this round's radius."""
        g, losses, _ = SAM.gradient(replace(self, rho=state["rho"]), w, state, objective, batch, phase)
        return g, losses, state
