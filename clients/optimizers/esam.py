"""Efficient SAM: perturb some tensors, descend on the examples whose loss the perturbation raised most.

Legend: `w, g1, g2, e: (..., P)`; `rise, weights: (..., B)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.asam import scaled_ball
from clients.optimizers.base import State, ball
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative

Share = Annotated[float, Field(gt=0, le=1)]
EVERY = 0.99  # a larger gamma keeps the whole batch


@dataclass(frozen=True, kw_only=True)
class ESAM(SAM):
    """SAM that perturbs a random subset of the tensors and descends on the most sharpness-sensitive examples.

    Source: Du et al., 2022, arXiv:2110.03141, as in dydjw9/Efficient_SAM: whole tensors are drawn (the paper says weights), one by
    one for the next step, all at the first; only examples strictly above the k-th largest rise in loss are kept. We keep the one
    with the largest rise where that leaves none, and draw again where no tensor was drawn.
    Cost: forward 1 backward 1 + gamma - 1/B per example and step, B the examples of a batch; from gamma = 0.99 on forward 0
    backward 2. The first backward pass also skips the tensors that were not drawn.

    Attributes:
        beta: Probability that a tensor is perturbed; the perturbation has length rho / beta, whatever was drawn. 1: all.
        gamma: Share of the examples that take part in the descent; from 0.99 on all.
        adaptive: Scale the perturbation by |w|, as ASAM does.
        norm_eps: As in the released code.
    """

    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0, "gamma": 1.0}
    beta: Share = 1.0
    gamma: Share = 1.0
    adaptive: bool = False
    norm_eps: NonNegative = 1e-7

    def degenerate(self, steps: int) -> str | None:
        """As `LocalOptimizer.degenerate`."""
        if self.gamma < EVERY:
            return None
        if self.beta == 1:
            return "esam: with beta = gamma = 1 it is SAM"
        return "esam: its first step perturbs all tensors, which is SAM, and there is no other" if steps == 1 else None

    def phase(self, state: State, rng: np.random.Generator) -> str:
        """As `LocalOptimizer.phase`: the tensors to perturb, a 0 or 1 for each, or all of them."""
        if self.beta == 1 or "tensors" not in state:
            return "all"
        while True:
            drawn = np.less_equal(rng.random(int(state["tensors"])), self.beta)
            if drawn.any():
                return "".join("1" if flag else "0" for flag in drawn)

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: a pass on the drawn tensors, a forward pass, a pass on the kept examples."""
        g1, losses = objective.grad(w, batch, mask=None if phase == "all" else [flag == "1" for flag in phase])
        rho = self.rho / self.beta
        e = scaled_ball(g1, w.abs(), rho, self.norm_eps) if self.adaptive else ball(g1, rho, self.norm_eps)
        state = {**state, "tensors": len(objective.layout.segments)}
        if self.gamma >= EVERY:
            g2, _ = objective.grad(w + e, batch)
            return g2, losses, state
        kept, weights = most_sensitive(objective.losses(w + e, batch) - losses, self.gamma)
        g2, _ = objective.grad(w + e, examples(batch, kept), weights=weights)
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
