"""FedSpeed's mixture of two gradients.

Legend: `w, g1, g2: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer, State
from fedsam.config import Fraction, NonNegative


@dataclass(frozen=True, kw_only=True)
class Mixed(LocalOptimizer):
    """Descend with a mixture of the gradient here and the gradient one ascent step away; the ascent step is not normalized.

    Source: Sun et al., 2023, arXiv:2302.10429, Algorithm 1 (FedSpeed), as restated by independent ports; the authors' release uses SAM.
    Cost: forward 0 backward 2 per example and step.

    Attributes:
        rho: Length of the ascent step, as a learning rate; 0 is the base optimizer.
        mix: Weight of the second gradient, the paper's alpha.
    """

    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0}
    rho: NonNegative = 0.1
    mix: Fraction = 1.0

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: an ascent and a descent pass."""
        g1, losses = objective.grad(w, batch)
        g2, _ = objective.grad(w + self.rho * g1, batch)
        return (1 - self.mix) * g1 + self.mix * g2, losses, state
