"""Sharpness-aware minimization.

Legend: `w, g1, g2, e: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step, ball
from clients.optimizers.cost import StepCost
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class SAM(LocalOptimizer):
    """Descend with the gradient taken at the worst nearby point."""

    source = (
        "Foret et al., 2021, arXiv:2010.01412, Algorithm 1, in the form of davda54/sam: weight decay enters neither pass. The authors' JAX "
        "code divides by the bare norm and keeps the L2 penalty inside both passes."
    )
    cost = StepCost(backward=2)
    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0}
    rho: NonNegative = hyperparameter(0.05, "Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.")
    norm_eps: NonNegative = hyperparameter(1e-12, "Added to the gradient norm in the denominator; 1e-7 and 1e-16 are in use elsewhere.")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g1, losses = step.grad(w)
        e = ball(g1, self.rho, self.norm_eps)  # Eq. 2
        g2, _ = step.grad(w + e)  # Eq. 3
        return g2, losses, state
