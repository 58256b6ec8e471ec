"""ZO-SAM: a perturbation estimated without a backward pass.

Legend: `w, v, slope, e: (..., P)`; "..." are client axes; a probe v is the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import State, ball
from clients.optimizers.sam import SAM
from fedsam.config import Count, Positive


@dataclass(frozen=True, kw_only=True)
class ZOSAM(SAM):
    """SAM whose ascent direction comes from finite differences of the loss along random directions.

    Source: arXiv:2603.13115; a reconstruction from descriptions, no code is known. Number, length and law of the probes (normal) are our
    choices. With one probe the perturbation is a random direction of chosen sign, whose cosine with the gradient of n parameters is
    about sqrt(2 / (pi * n)): no cheap SAM, but useful where memory forbids a second backward pass.

    Cost: forward 2 * num_probes backward 1 per example and step.

    Running statistics follow the only backward pass, and its losses, at the perturbed point, are the reported ones.

    Attributes:
        num_probes: Random directions whose estimates are averaged.
        probe_radius: Length of a probe in units of the direction's.
    """

    num_probes: Count = 1
    probe_radius: Positive = 1e-3

    def phase(self, state: State, rng: np.random.Generator) -> str:
        """As `LocalOptimizer.phase`: the seed of the step's probes."""
        return str(int(rng.random() * 2**53))

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: probes, and a descent pass."""
        g2, losses = objective.grad(w + ball(self._slope(w, objective, batch, int(phase)), self.rho, self.norm_eps), batch)
        return g2, losses, state

    def _slope(self, w: Tensor, objective: Objective, batch: Batch, seed: int) -> Tensor:
        """The estimated gradient; running statistics stay as they are."""
        generator = torch.Generator(w.device).manual_seed(seed)
        slope = torch.zeros_like(w)
        with objective.aside():
            for _ in range(self.num_probes):
                v = torch.randn(w.shape[-1], generator=generator, dtype=w.dtype, device=w.device)
                d = self.probe_radius * v
                rise = objective.losses(w + d, batch).mean(dim=-1, keepdim=True) - objective.losses(w - d, batch).mean(dim=-1, keepdim=True)
                slope = slope + rise / (2 * self.probe_radius) * v / self.num_probes
        return slope
