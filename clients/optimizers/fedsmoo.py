"""FedSMOO's local perturbation.

Legend: `w, g1, g2, q, e, mu, s: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step, Task, ball
from clients.optimizers.cost import StepCost
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class FedSMOO(LocalOptimizer):
    """SAM whose perturbation a dual variable pulls towards the server's."""

    source = (
        "Sun et al., 2023, arXiv:2305.11584, Algorithm 1 (FedSMOO), as in FL-Simulator: mu changes in every local step and lasts over the "
        "rounds (correction `fedsmoo`). Outside a federation mu and s start at 0."
    )
    cost = StepCost(backward=2)
    needs = ("mu", "s")
    reduces_to_base = {"rho": 0.0}
    rho: NonNegative = hyperparameter(0.1, "Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.")
    norm_eps: NonNegative = hyperparameter(1e-7, "Added to the norm in the denominator.")

    def init(self, w: Tensor, task: Task) -> State:
        """The client's dual and the server's perturbation."""
        zero = torch.zeros_like(w)
        return {"mu": task.terms.get("mu", zero), "s": task.terms.get("s", zero), "e": zero}

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g1, losses = step.grad(w)
        e = ball(g1 - state["mu"] - state["s"], self.rho, self.norm_eps)
        g2, _ = step.grad(w + e)
        return g2, losses, {**state, "mu": state["mu"] + e - state["s"], "e": e}
