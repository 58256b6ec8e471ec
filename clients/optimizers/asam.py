"""Adaptive sharpness-aware minimization: a perturbation in proportion to the size of each weight.

Legend: `w, g1, g2, e, scale: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, norm
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter
from fedsam.models.flat import Layout


def scaled_ball(direction: Tensor, scale: Tensor, rho: float, eps: float) -> Tensor:
    """The perturbation (..., P) that is `ball` in the coordinates w / scale: its length over `scale` is rho."""
    scaled = scale * direction
    return rho * scale * scaled / (norm(scaled) + eps)


@lru_cache(maxsize=64)  # one entry per network and device; making it would cost a copy to the device in every step
def in_weights(layout: Layout, device: torch.device) -> Tensor:
    """Which scalars belong to a tensor whose name contains "weight": flags (P,)."""
    return layout.per_tensor(torch.tensor(["weight" in segment.name for segment in layout.segments], device=device))


@dataclass(frozen=True, kw_only=True)
class ASAM(SAM):
    """SAM whose ball is measured relative to the weights: large weights are moved more."""

    source = (
        "Kwon et al., 2021, arXiv:2102.11600, Algorithm 1. Variant `official` is SamsungLabs/ASAM, `elementwise` the `adaptive` switch of "
        "davda54/sam, which has no eta, scales biases too, and adds 1e-12 to the norm."
    )
    cost = StepCost(backward=2)
    variant: Literal["official", "elementwise"] = hyperparameter(
        "official",
        'official: scale |w| + eta on tensors named "weight" (normalization scales included), 1 on the others; elementwise: |w| '
        "everywhere, so that a weight of exactly 0 stays where it is.",
    )
    rho: NonNegative = hyperparameter(
        0.5, "Perturbation radius in units of |w|, about ten times that of SAM; the length of the perturbation itself is not rho."
    )
    eta: NonNegative = hyperparameter(0.01, "Added to |w| in variant `official`.")
    norm_eps: NonNegative = 1e-16

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g1, losses = step.grad(w)
        e = scaled_ball(g1, self._scale(w, step.objective.layout), self.rho, self.norm_eps)  # Eq. 4
        g2, _ = step.grad(w + e)
        return g2, losses, state

    def _scale(self, w: Tensor, layout: Layout) -> Tensor:
        if self.variant == "elementwise":
            return w.abs()
        return torch.where(in_weights(layout, w.device), w.abs() + self.eta, 1.0)
