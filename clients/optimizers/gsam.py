"""GSAM: surrogate-gap guided sharpness-aware minimization.

Legend: `w, g, g_p, e: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step, dot, norm
from clients.optimizers.cost import StepCost
from fedsam.config import ConfigError, NonNegative, Positive
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class GSAM(LocalOptimizer):
    """SAM's gradient less alpha times the part of the clean gradient orthogonal to it, which closes the gap between both losses."""

    source = (
        "Zhuang et al., 2022, arXiv:2203.08065, in the form of juntang-zhuang/GSAM. Its schedulers report a learning rate of 0 before "
        "their first step; here the radius follows the rate really used. The authors' JAX code (google-research/big_vision) has another "
        "adaptive perturbation, `bigvision`, and the switch `minimize_fp`."
    )
    cost = StepCost(backward=2)
    reduces_to_base = {"rho_max": 0.0, "rho_min": 0.0}
    rho_max: NonNegative = hyperparameter(0.05, "Perturbation radius, in units of the parameters' L2 norm, at learning rate `lr_max`.")
    rho_min: NonNegative | None = hyperparameter(
        None, "Perturbation radius at learning rate `lr_min`, linear in between; unset: the radius is always `rho_max`."
    )
    lr_max: Positive | None = hyperparameter(None, "Learning rate of the radius `rho_max`; must be given with `rho_min`.")
    lr_min: NonNegative = hyperparameter(0.0, "Learning rate of the radius `rho_min`.")
    alpha: NonNegative = hyperparameter(0.4, "Weight of the orthogonal part.")
    adaptive: bool = hyperparameter(False, "Scale the perturbation by the weights.")
    adaptive_form: Literal["asam", "bigvision"] = hyperparameter(
        "asam", "How: `asam` by w*w and the norm of |w|*g, `bigvision` by |w| and the norm of g."
    )
    minimize_fp: bool = hyperparameter(
        True, "Descend along the perturbed gradient; else along the clean one plus the orthogonal part of the perturbed."
    )
    norm_eps: NonNegative = 1e-12

    def __post_init__(self) -> None:
        if self.rho_min is not None and self.rho_min != self.rho_max and self.lr_max is None:
            raise ConfigError("client.optimizer.lr_max: must be given: the radius runs from rho_min to rho_max as lr from lr_min to lr_max")

    @property
    def rho(self) -> float:
        """The radius at the present learning rate."""
        if self.rho_min is None or self.lr_max is None or self.lr_max == self.lr_min:
            return self.rho_max
        return self.rho_min + (self.rho_max - self.rho_min) * (self.lr - self.lr_min) / (self.lr_max - self.lr_min)

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """A pass at `w` and one at the perturbed point."""
        g, losses = step.grad(w)
        g_p, _ = step.grad(w + self._perturbation(w, g))
        if self.minimize_fp:
            return g_p - self.alpha * _orthogonal(g, g_p), losses, state
        return g + self.alpha * _orthogonal(g_p, g), losses, state

    def _perturbation(self, w: Tensor, g: Tensor) -> Tensor:
        if not self.adaptive:
            return self.rho * g / (norm(g) + self.norm_eps)
        if self.adaptive_form == "asam":
            return self.rho * w * w * g / (norm(w.abs() * g) + self.norm_eps)
        return self.rho * w.abs() * g / (norm(g) + self.norm_eps)


def _orthogonal(a: Tensor, b: Tensor) -> Tensor:
    """The part of `a` orthogonal to `b`; all of it where b is 0."""
    square = dot(b, b)
    return a - dot(a, b) / torch.where(square > 0, square, 1.0) * b
