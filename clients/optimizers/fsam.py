"""Friendly SAM: perturb along what is particular to the batch.

Legend: `w, g1, g2, d, e, ema: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.asam import scaled_ball
from clients.optimizers.base import Decay, State, ball
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class FSAM(SAM):
    """SAM that perturbs along the part of the batch gradient that an average of past gradients does not explain.

    Source: Li et al., 2024, arXiv:2403.12350, as in nblt/F-SAM: the average starts as the first gradient and is subtracted before
    the current gradient enters it. The paper's algorithm box suggests a start at 0 and the new average, which differs for sigma != 1.
    Cost: forward 0 backward 2 per example and step.

    The first step is a SAM step. A fresh state in every round means that the average is that of one round's local steps: with few
    of them it is little more than the first batch's gradient, and with one step F-SAM is SAM. Where batches hardly differ (a batch
    that holds all examples of a client) the direction is rounding noise, stretched to length rho all the same.

    Attributes:
        sigma: Share of the average that is subtracted from the gradient; 0 is SAM.
        beta: Decay of the average; lambda in the paper.
        adaptive: Scale the perturbation by |w|, as ASAM does; off in the published runs.
    """

    sigma: NonNegative = 1.0
    beta: Decay = 0.9
    adaptive: bool = False

    def degenerate(self, steps: int) -> str | None:
        """As `LocalOptimizer.degenerate`."""
        return "fsam: its first step is a SAM step, and there is no other" if steps == 1 else None

    def phase(self, state: State, rng: np.random.Generator) -> str:
        """As `LocalOptimizer.phase`: the first step starts the average."""
        return "step" if "ema" in state else "first"

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: an ascent and a descent pass."""
        g1, losses = objective.grad(w, batch)
        if phase == "first":
            d = ema = g1
        else:
            d = g1 - self.sigma * state["ema"]
            ema = self.beta * state["ema"] + (1 - self.beta) * g1
        e = scaled_ball(d, w.abs(), self.rho, self.norm_eps) if self.adaptive else ball(d, self.rho, self.norm_eps)
        g2, _ = objective.grad(w + e, batch)
        return g2, losses, {**state, "ema": ema}
