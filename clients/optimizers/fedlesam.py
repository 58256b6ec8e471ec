"""Locally estimated sharpness-aware minimization (FedLESAM).

Legend: `w, e, ascent: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step, Task, ball
from clients.optimizers.cost import StepCost
from fedsam.config import NonNegative, Positive
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class FedLESAM(LocalOptimizer):
    """Descend with the gradient at a point perturbed, the same way all round, along the last change of the global vector."""

    source = (
        "Qu et al., 2024, arXiv:2405.18890, Algorithm 1; the direction is old minus new (correction `lookback`), which is ascent. Without "
        "a direction (a client's first round, or outside a federation) it is the base optimizer."
    )
    cost = StepCost()
    needs = ("ascent",)
    reduces_to_base = {"rho": 0.0}
    rho: NonNegative = hyperparameter(0.1, "Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.")
    norm_eps: Positive = hyperparameter(1e-7, "Added to the norm in the denominator, > 0 because the direction can be 0.")

    def init(self, w: Tensor, task: Task) -> State:
        """The perturbation of the round."""
        ascent = task.terms.get("ascent", torch.zeros_like(w))
        return {"e": ball(ascent, self.rho, self.norm_eps)}

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """One pass, at the perturbed point."""
        g, losses = step.grad(w + state["e"])
        return g, losses, state
