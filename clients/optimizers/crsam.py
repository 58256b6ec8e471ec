"""CR-SAM: curvature-regularized sharpness-aware minimization.

Legend: `w, g, e: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, ball
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class CRSAM(SAM):
    """SAM's gradient plus finite differences along the perturbation, from gradients on both sides of the weights."""

    source = (
        "Wu et al., 2024, arXiv:2312.13555, in the form of TrustAIoT/CR-SAM. The paper's regularizer is a logarithm whose gradient would "
        "be divided by differences of losses; the code computes these losses and uses none."
    )
    cost = StepCost(backward=3)
    rho: NonNegative = 0.1
    gamma: NonNegative = hyperparameter(0.1, "Weight of the second difference of the gradient.")
    beta: NonNegative = hyperparameter(0.01, "Weight of the first difference; 0.01 is the script's, 0.1 the class's default.")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """Passes at the weights and on both sides."""
        g, losses = step.grad(w)
        e = ball(g, self.rho, self.norm_eps)
        plus, _ = step.grad(w + e)
        minus, _ = step.grad(w - e)
        return plus + self.gamma * (plus + minus - 2 * g) + self.beta * (plus - minus), losses, state
