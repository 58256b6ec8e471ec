"""WSAM: sharpness as a weighted regularizer.

Legend: `w, g, g_s: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import State, ball
from clients.optimizers.sam import SAM
from fedsam.config import Positive


@dataclass(frozen=True, kw_only=True)
class WSAM(SAM):
    """The gradient plus gamma/(1-gamma) times its change at the perturbed point; the change may bypass the base optimizer.

    Source: Yue et al., 2023, arXiv:2305.15817, in the form of intelligent-machine-learning/dlrover, whose
    `max_norm` is 1 by default while its text says none; here it is none.

    Cost: forward 0 backward 2 per example and step.

    Attributes:
        gamma: Weight of the sharpness; coupled, 1/2 is SAM and more extrapolates beyond it.
        decouple: Subtract the change after the base step at the learning rate, outside momentum, corrections and `clip_norm`.
        max_norm: Largest L2 norm of each of the two gradients; unset: no clip. The perturbation comes from the unclipped one.
    """

    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.9
    decouple: bool = True
    max_norm: Positive | None = None

    def advance(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, State, Tensor]:
        """As `LocalOptimizer.advance`; decoupled, the base step takes the clean gradient and the weighted change follows."""
        if not self.decouple:
            return super().advance(w, state, objective, batch, phase)
        g, change, losses = self._gradients(w, objective, batch)
        w, state = self.descend(w, state, objective.descent(w, g, self.clip))
        return w - self.lr * change, state, losses

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: an ascent and a descent pass, coupled."""
        g, change, losses = self._gradients(w, objective, batch)
        return g + change, losses, state

    def _gradients(self, w: Tensor, objective: Objective, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient at `w`, its weighted change at the perturbed point, and the losses at `w`."""
        g, losses = objective.grad(w, batch)
        g_s, _ = objective.grad(w + ball(g, self.rho, self.norm_eps), batch)
        capped = replace(self, clip_norm=self.max_norm)
        g, g_s = capped.clip(g), capped.clip(g_s)
        return g, self.gamma / (1 - self.gamma) * (g_s - g), losses
