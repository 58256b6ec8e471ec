"""SAM-ON: sharpness-aware minimization that perturbs the normalization layers only.

Legend: `w, g, t, e: (..., P)`; "..." are client axes; N: the tensors that are perturbed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, norm
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from clients.optimizers.tensors import tensorwise
from fedsam.config import ConfigError, NonNegative
from fedsam.documentation import hyperparameter
from fedsam.models.flat import Layout, Segment


@dataclass(frozen=True, kw_only=True)
class SAMON(SAM):
    """SAM or ASAM whose perturbation is confined to the affine parameters of normalization layers; all parameters are trained."""

    source = (
        "Mueller et al., 2023, arXiv:2306.04226, in the form of mueller-mp/SAM-ON, except that a tensor belongs to N by the type of its "
        "layer, not by its name: the code misses normalization inside `Sequential`. The first pass skips the other tensors' gradients."
    )
    cost = StepCost(backward=2)
    rho: NonNegative = 0.5
    norm_eps: NonNegative = 1e-16
    perturb: Literal["only_norm", "no_norm", "all"] = hyperparameter(
        "only_norm", "Which tensors N holds: those of normalization layers, all others, or all."
    )
    variant: Literal["sam", "asam"] = hyperparameter("sam", "Whether the perturbation is scaled by the weights.")
    eta: NonNegative = hyperparameter(0.0, "Added to the scale.")
    normalize_bias: bool = hyperparameter(False, 'Scale biases too, not only tensors whose name contains "weight".')
    scaling: Literal["elementwise", "layerwise"] = hyperparameter("elementwise", "The scale: each |w|, or the norm of its tensor.")
    p: Literal["2", "inf"] = hyperparameter("2", "Norm that the perturbation is bounded in.")

    def check(self, layout: Layout) -> None:
        """There must be parameters to perturb."""
        self._members(layout)

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent pass for N and a descent pass for all."""
        g, losses = step.grad(w, mask=self._members(step.objective.layout))  # 0 outside N, and so is e
        t = tensorwise(self._scale, step.objective.layout, w)
        e = self.rho * t * g.sign() if self.p == "inf" else self.rho * t * t * g / (norm(t * g) + self.norm_eps)
        g2, _ = step.grad(w + e)
        return g2, losses, state

    def _members(self, layout: Layout) -> list[bool]:
        mask = [self.perturb == "all" or segment.norm == (self.perturb == "only_norm") for segment in layout.segments]
        if not any(mask):
            raise ConfigError(f"client.optimizer.perturb: {self.perturb!r} is not allowed: the model has no such parameters")
        return mask

    def _scale(self, segment: Segment, w: Tensor) -> Tensor:
        if self.variant == "sam" or not (self.normalize_bias or "weight" in segment.name):
            return torch.ones_like(w)
        return w.abs() + self.eta if self.scaling == "elementwise" else norm(w) * (1 + self.eta)
