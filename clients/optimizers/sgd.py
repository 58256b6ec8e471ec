"""Plain (stochastic) gradient descent.

Legend: `w, g: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step
from clients.optimizers.cost import StepCost


@dataclass(frozen=True, kw_only=True)
class SGD(LocalOptimizer):
    """The base optimizer itself, fed with the gradient of the batch: no perturbation."""

    source = "McMahan et al., 2017, arXiv:1602.05629, Algorithm 1 (ClientUpdate)."
    cost = StepCost()

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """One pass at `w`."""
        g, losses = step.grad(w)
        return g, losses, state
