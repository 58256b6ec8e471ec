"""ZO-SAM: a perturbation estimated without a backward pass.

Legend: `w, v, slope, e: (..., P)`; "..." are client axes; a probe v is the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, StepPlan, ball
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from fedsam.config import Count, Positive
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class ZOSAM(SAM):
    """SAM whose ascent direction comes from finite differences of the loss along random directions.

    Running statistics follow the only backward pass, and its losses, at the perturbed point, are the reported ones.
    """

    source = (
        "arXiv:2603.13115; a reconstruction from descriptions, no code is known. Number, length and law of the probes (normal) are our "
        "choices. With one probe the perturbation is a random direction of chosen sign, whose cosine with the gradient of n parameters is "
        "about sqrt(2 / (pi * n)): no cheap SAM, but useful where memory forbids a second backward pass."
    )
    cost = StepCost(forward=Formula("2 * num_probes", lambda self, _: 2 * self.num_probes))
    num_probes: Count = hyperparameter(1, "Random directions whose estimates are averaged.")
    probe_radius: Positive = hyperparameter(1e-3, "Length of a probe in units of the direction's.")

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """The seed of the step's probes."""
        return StepPlan(seed=int(rng.random() * 2**53))

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """Probes, and a descent pass."""
        g2, losses = step.grad(w + ball(self._slope(w, step), self.rho, self.norm_eps))
        return g2, losses, state

    def _slope(self, w: Tensor, step: Step) -> Tensor:
        """The estimated gradient; running statistics stay as they are."""
        assert step.plan.seed is not None
        objective, batch = step.objective, step.batch
        generator = torch.Generator(w.device).manual_seed(step.plan.seed)
        slope = torch.zeros_like(w)
        with objective.aside():
            for _ in range(self.num_probes):
                v = torch.randn(w.shape[-1], generator=generator, dtype=w.dtype, device=w.device)
                d = self.probe_radius * v
                rise = objective.losses(w + d, batch).mean(dim=-1, keepdim=True) - objective.losses(w - d, batch).mean(dim=-1, keepdim=True)
                slope = slope + rise / (2 * self.probe_radius) * v / self.num_probes
        return slope
