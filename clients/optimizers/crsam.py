"""CR-SAM: curvature-regularized sharpness-aware minimization.

Legend: `w, g, e: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import State, ball
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class CRSAM(SAM):
    """SAM's gradient plus finite differences along the perturbation, from gradients on both sides of the weights.

    Source: Wu et al., 2024, arXiv:2312.13555, in the form of TrustAIoT/CR-SAM. The paper's regularizer is a logarithm whose gradient
    would be divided by differences of losses; the code computes these losses and uses none.

    Cost: forward 0 backward 3 per example and step.

    Attributes:
        gamma: Weight of the second difference of the gradient.
        beta: Weight of the first difference; 0.01 is the script's, 0.1 the class's default.
    """

    rho: NonNegative = 0.1
    gamma: NonNegative = 0.1
    beta: NonNegative = 0.01

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: passes at the weights and on both sides."""
        g, losses = objective.grad(w, batch)
        e = ball(g, self.rho, self.norm_eps)
        plus, _ = objective.grad(w + e, batch)
        minus, _ = objective.grad(w - e, batch)
        return plus + self.gamma * (plus + minus - 2 * g) + self.beta * (plus - minus), losses, state
