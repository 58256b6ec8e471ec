"""WSAM: sharpness as a weighted regularizer.

Legend: `w, g, g_s: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, Stepped, ball
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from fedsam.config import Positive
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class WSAM(SAM):
    """The gradient plus gamma/(1-gamma) times its change at the perturbed point; the change may bypass the base optimizer."""

    source = (
        "Yue et al., 2023, arXiv:2305.15817, in the form of intelligent-machine-learning/dlrover, whose `max_norm` is 1 by default while "
        "its text says none; here it is none."
    )
    cost = StepCost(backward=2)
    gamma: Annotated[float, Field(ge=0, lt=1)] = hyperparameter(
        0.9, "Weight of the sharpness; coupled, 1/2 is SAM and more extrapolates beyond it."
    )
    decouple: bool = hyperparameter(
        True, "Subtract the change after the base step at the learning rate, outside momentum, corrections and `clip_norm`."
    )
    max_norm: Positive | None = hyperparameter(
        None, "Largest L2 norm of each of the two gradients; unset: no clip. The perturbation comes from the unclipped one."
    )

    def advance(self, w: Tensor, state: State, step: Step) -> Stepped:
        """The base step; decoupled, it takes the clean gradient, and the weighted change is subtracted after it."""
        if not self.decouple:
            return super().advance(w, state, step)
        g, change, losses = self._gradients(w, step)
        w, state = self.move(w, state, state, g, step.objective)
        return w - self.lr * change, state, losses

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass, coupled."""
        g, change, losses = self._gradients(w, step)
        return g + change, losses, state

    def _gradients(self, w: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient at `w`, its weighted change at the perturbed point, and the losses at `w`."""
        g, losses = step.grad(w)
        g_s, _ = step.grad(w + ball(g, self.rho, self.norm_eps))
        capped = replace(self, clip_norm=self.max_norm)
        g, g_s = capped.clip(g), capped.clip(g_s)
        return g, self.gamma / (1 - self.gamma) * (g_s - g), losses
