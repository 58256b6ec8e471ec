"""Focal-SAM: class-wise weighted sharpness for long-tailed labels.

Legend: `w, g_a, g_e, e: (..., P)`; `c: (..., B)` weights of the batch's examples; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import State, Task, ball
from clients.optimizers.sam import SAM
from fedsam.config import ConfigError, NonNegative


@dataclass(frozen=True, kw_only=True)
class FocalSAM(SAM):
    """Mean loss plus a penalty on its sharpness in which the examples of rare classes weigh more.

    Source: Li et al., 2025, arXiv:2505.01660, in the form of scongl/Focal-SAM, without label smoothing. Weighted losses are divided by
    the batch size, not by the sum of weights. Both gradients at `w` come from one forward pass.

    Cost: forward 0 backward 3 per example and step.

    Attributes:
        lam: Weight of the sharpness; 0 is the base optimizer, 1 with `focal_gamma` 0 is SAM.
        focal_gamma: Exponent that lowers the weight of frequent classes.
        class_counts: Examples of each class; unset: the client's own. An absent class has the full weight.
    """

    rho: NonNegative = 0.2
    lam: NonNegative = 0.5
    focal_gamma: NonNegative = 3.0
    class_counts: tuple[NonNegative, ...] | None = None

    def init(self, w: Tensor, task: Task) -> State:
        """As `LocalOptimizer.init`: the weight of each class.

        Raises:
            ConfigError: No class has examples, or no counts are known.
        """
        counts = self.class_counts if self.class_counts is not None else task.class_counts
        if sum(counts) <= 0:
            raise ConfigError(f"client.optimizer.class_counts: {counts!r} is not allowed: must name at least one example")
        share = w.new_tensor(counts) / sum(counts)
        return {**super().init(w, task), "class_weights": self.lam * (1 - share) ** self.focal_gamma}

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: two gradients of one pass at `w`, one at the perturbed point."""
        c = state["class_weights"][batch.y]
        both, losses = objective.grad(w, batch, weights=torch.stack([1 - c, c], dim=-2) / batch.size)
        g_a, g_e = both.unbind(dim=-2)
        g_b, _ = objective.grad(w + ball(g_e, self.rho, self.norm_eps), batch, weights=c / batch.size)
        return g_a + g_b, losses, state
