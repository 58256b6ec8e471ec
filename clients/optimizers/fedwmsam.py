"""FedWMSAM's local step.

Legend: `w, q, g, start, lag: (..., P)`: `q` momentum, `start` the round's first point, `lag` direction of the perturbation; "..." are
client axes.
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
class FedWMSAM(LocalOptimizer):
    """Descend with the gradient at a point perturbed towards the round's start, moved uphill along the momentum step by step."""

    source = (
        "Li et al., 2025, arXiv:2511.22080 (FedWMSAM): the formula of the authors' poster, over the whole vector and with its sign, both "
        "unlike the released code. The momentum comes from correction `fedwmsam`; outside a federation it is 0."
    )
    cost = StepCost()
    needs = ("q",)
    reduces_to_base = {"rho": 0.0}
    rho: NonNegative = hyperparameter(0.01, "Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.")
    norm_eps: Positive = hyperparameter(1e-7, "Added to the norm in the denominator, > 0 because the first step has no direction.")

    def init(self, w: Tensor, task: Task) -> State:
        """Where the round starts, its momentum, and the steps taken."""
        return {"start": w, "q": task.terms.get("q", torch.zeros_like(w)), "taken": 0}

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """One pass, at the perturbed point."""
        lag = state["start"] + state["taken"] * state["q"] - w
        g, losses = step.grad(w + ball(lag, self.rho, self.norm_eps))
        return g, losses, {**state, "taken": state["taken"] + 1}
