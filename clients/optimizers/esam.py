"""Efficient SAM: perturb some tensors, descend on the examples whose loss the perturbation raised most.

Legend: `w, g1, g2, e: (..., P)`; `rise, weights: (..., B)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.objective import Batch
from clients.optimizers.asam import scaled_ball
from clients.optimizers.base import Gradient, State, Step, StepPlan, ball
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter

Share = Annotated[float, Field(gt=0, le=1)]
EVERY = 0.99  # a larger gamma keeps the whole batch


@dataclass(frozen=True, kw_only=True)
class ESAM(SAM):
    """SAM that perturbs a random subset of the tensors and descends on the most sharpness-sensitive examples."""

    source = (
        "Du et al., 2022, arXiv:2110.03141, as in dydjw9/Efficient_SAM: whole tensors are drawn (the paper says weights), one by one for "
        "the next step, all at the first; only examples strictly above the k-th largest rise in loss are kept. We keep the one with the "
        "largest rise where that leaves none, and draw again where no tensor was drawn."
    )
    cost = StepCost(
        forward=Formula("1", lambda self, _: float(self.gamma < EVERY)),
        backward=Formula("1 + gamma - 1/B", lambda self, at: 1 + self.gamma - 1 / at.B if self.gamma < EVERY else 2),
        note="from gamma = 0.99 on 0 forward, 2 forward and backward",
    )
    reduces_to_base = {"rho": 0.0, "gamma": 1.0}
    beta: Share = hyperparameter(
        1.0, "Probability that a tensor is perturbed; the perturbation has length rho / beta, whatever was drawn. 1: all."
    )
    gamma: Share = hyperparameter(1.0, "Share of the examples that take part in the descent; from 0.99 on all.")
    adaptive: bool = hyperparameter(False, "Scale the perturbation by |w|, as ASAM does.")
    norm_eps: NonNegative = hyperparameter(1e-7, "As in the released code.")

    def reduction_reason(self, steps: int) -> str | None:
        if self.gamma < EVERY:
            return None
        if self.beta == 1:
            return "esam: with beta = gamma = 1 it is SAM"
        return "esam: its first step perturbs all tensors, which is SAM, and there is no other" if steps == 1 else None

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """The tensors to perturb."""
        if self.beta == 1 or "tensors" not in state:
            return StepPlan()
        while True:
            drawn = np.less_equal(rng.random(int(state["tensors"])), self.beta)
            if drawn.any():
                return StepPlan(mask=tuple(drawn.tolist()))

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """A pass on the drawn tensors, a forward pass, a pass on the kept examples."""
        g1, losses = step.grad(w, mask=step.plan.mask)  # skips the other tensors
        rho = self.rho / self.beta
        e = scaled_ball(g1, w.abs(), rho, self.norm_eps) if self.adaptive else ball(g1, rho, self.norm_eps)
        state = {**state, "tensors": len(step.objective.layout.segments)}
        if self.gamma >= EVERY:
            g2, _ = step.grad(w + e)
            return g2, losses, state
        kept, weights = most_sensitive(step.objective.losses(w + e, step.batch) - losses, self.gamma)
        g2, _ = step.objective.grad(w + e, examples(step.batch, kept), weights=weights)
        return g2, losses, state


def most_sensitive(rise: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Examples whose loss rose by more than the k-th largest rise, k = floor(gamma * B), and their weights in a mean over them.

    Both have shape (..., max(k - 1, 1)), whatever the values are; among tied examples some have weight 0.
    """
    k = max(int(gamma * rise.shape[-1]), 1)
    top, order = rise.topk(k, dim=-1)
    size = max(k - 1, 1)
    above = (top[..., :size] > top[..., -1:]).to(rise.dtype)
    above[..., 0] = 1.0
    return order[..., :size], above / above.sum(dim=-1, keepdim=True)


def examples(batch: Batch, index: Tensor) -> Batch:
    """The examples (..., k) of a batch (..., B) at `index` (..., k)."""
    spread = index.reshape(index.shape + (1,) * (batch.x.ndim - index.ndim))
    return Batch(torch.take_along_dim(batch.x, spread, dim=index.ndim - 1), batch.y.gather(-1, index))
