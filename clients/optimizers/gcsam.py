"""GCSAM: sharpness-aware minimization with a centralized ascent gradient.

Legend: `w, g, e: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, ball, norm
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from clients.optimizers.tensors import tensorwise
from fedsam.documentation import hyperparameter
from fedsam.models.flat import Segment


@dataclass(frozen=True, kw_only=True)
class GCSAM(SAM):
    """SAM whose perturbation follows the gradient less its mean over each output of a tensor."""

    source = (
        "Hassan et al., 2025, arXiv:2501.11584, in the form of Mohamed-Hassan22/GCSAM: the perturbation is divided by the norm of the "
        "uncentred gradient, so it is shorter than rho, and the descent gradient stays as it is. The two switches give the paper's form."
    )
    cost = StepCost(backward=2)
    norm_after: bool = hyperparameter(False, "Divide by the norm of the centred gradient.")
    center_descent: bool = hyperparameter(False, "Center the descent gradient too.")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g, losses = step.grad(w)
        centred = tensorwise(_center, step.objective.layout, g)
        e = ball(centred, self.rho, self.norm_eps) if self.norm_after else self.rho * centred / (norm(g) + self.norm_eps)
        g2, _ = step.grad(w + e)
        return tensorwise(_center, step.objective.layout, g2) if self.center_descent else g2, losses, state


def _center(segment: Segment, g: Tensor) -> Tensor:
    """`g` (..., p) less the mean over all dimensions but the tensor's first; vectors and scalars are left as they are."""
    if len(segment.shape) < 2:
        return g
    rows = g.reshape(*g.shape[:-1], segment.shape[0], -1)
    return (rows - rows.mean(dim=-1, keepdim=True)).reshape(g.shape)
