"""Focal-SAM: class-wise weighted sharpness for long-tailed labels.

Legend: `w, g_a, g_e, e: (..., P)`; `c: (..., B)` weights of the batch's examples; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, Task, ball
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from fedsam.config import ConfigError, NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class FocalSAM(SAM):
    """Mean loss plus a penalty on its sharpness in which the examples of rare classes weigh more."""

    source = (
        "Li et al., 2025, arXiv:2505.01660, in the form of scongl/Focal-SAM, without label smoothing. Weighted losses are divided by the "
        "batch size, not by the sum of weights. Both gradients at `w` come from one forward pass."
    )
    cost = StepCost(backward=3)
    rho: NonNegative = 0.2
    lam: NonNegative = hyperparameter(0.5, "Weight of the sharpness; 0 is the base optimizer, 1 with `focal_gamma` 0 is SAM.")
    focal_gamma: NonNegative = hyperparameter(3.0, "Exponent that lowers the weight of frequent classes.")
    class_counts: tuple[NonNegative, ...] | None = hyperparameter(
        None, "Examples of each class; unset: the client's own. An absent class has the full weight."
    )

    def init(self, w: Tensor, task: Task) -> State:
        """The weight of each class.

        Raises:
            ConfigError: No class has examples, or no counts are known.
        """
        counts = self.class_counts if self.class_counts is not None else task.class_counts
        if sum(counts) <= 0:
            raise ConfigError(f"client.optimizer.class_counts: {counts!r} is not allowed: must name at least one example")
        share = w.new_tensor(counts) / sum(counts)
        return {**super().init(w, task), "class_weights": self.lam * (1 - share) ** self.focal_gamma}

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """Two gradients of one pass at `w`, one at the perturbed point."""
        c = state["class_weights"][step.batch.y]
        both, losses = step.grad(w, weights=torch.stack([1 - c, c], dim=-2) / step.batch.size)
        g_a, g_e = both.unbind(dim=-2)
        g_b, _ = step.grad(w + ball(g_e, self.rho, self.norm_eps), weights=c / step.batch.size)
        return g_a + g_b, losses, state
