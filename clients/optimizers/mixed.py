"""FedSpeed's mixture of two gradients.

Legend: `w, g1, g2: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step
from clients.optimizers.cost import StepCost
from fedsam.config import Fraction, NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class Mixed(LocalOptimizer):
    """Descend with a mixture of the gradient here and the gradient one ascent step away; the ascent step is not normalized."""

    source = "Sun et al., 2023, arXiv:2302.10429, Algorithm 1 (FedSpeed), as restated by independent ports; the authors' release uses SAM."
    cost = StepCost(backward=2)
    reduces_to_base = {"rho": 0.0}
    rho: NonNegative = hyperparameter(0.1, "Length of the ascent step, as a learning rate; 0 is the base optimizer.")
    mix: Fraction = hyperparameter(1.0, "Weight of the second gradient, the paper's alpha.")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g1, losses = step.grad(w)
        g2, _ = step.grad(w + self.rho * g1)
        return (1 - self.mix) * g1 + self.mix * g2, losses, state
