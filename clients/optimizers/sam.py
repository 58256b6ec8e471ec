"""Sharpness-aware minimization.

Legend: `w, g1, g2, e: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer, State, ball
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class SAM(LocalOptimizer):
    """Descend with the gradient taken at the worst nearby point.

    Source: Foret et al., 2021, arXiv:2010.01412, Algorithm 1, in the form of davda54/sam: weight decay enters neither pass. The
    authors' JAX code divides by the bare norm and keeps the L2 penalty inside both passes.
    Cost: forward 0 backward 2 per example and step.

    Attributes:
        rho: Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.
        norm_eps: Added to the gradient norm in the denominator; 1e-7 and 1e-16 are in use elsewhere.
    """

    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0}
    rho: NonNegative = 0.05
    norm_eps: NonNegative = 1e-12

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: an ascent and a descent pass."""
        g1, losses = objective.grad(w, batch)
        e = ball(g1, self.rho, self.norm_eps)  # Eq. 2
        g2, _ = objective.grad(w + e, batch)  # Eq. 3
        return g2, losses, state
