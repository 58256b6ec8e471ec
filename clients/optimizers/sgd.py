"""Plain (stochastic) gradient descent.

Legend: `w, g: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer, State


@dataclass(frozen=True, kw_only=True)
class SGD(LocalOptimizer):
    """The base optimizer itself, fed with the gradient of the batch: no perturbation.

    Source: McMahan et al., 2017, arXiv:1602.05629, Algorithm 1 (ClientUpdate).
    Cost: forward 0 backward 1 per example and step.
    """

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: one pass at `w`."""
        g, losses = objective.grad(w, batch)
        return g, losses, state
