"""LookSAM: the sharpness-seeking part of the gradient is computed every k-th step and reused in between.

Legend: `w, g, g_s, g_v: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, StepPlan, Task, ball, dot, norm
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from clients.optimizers.tensors import tensorwise
from fedsam.config import Count, NonNegative
from fedsam.documentation import hyperparameter
from fedsam.models.flat import Layout


@dataclass(frozen=True, kw_only=True)
class LookSAM(SAM):
    """SAM on every k-th step; on the others the gradient plus the part of the last SAM gradient that was orthogonal to its gradient.

    The cycle starts with the state. A fresh state in every round makes the first of few local steps a SAM step: with fewer than k
    steps nothing else is reused, and with one step LookSAM is SAM.
    """

    source = (
        "Liu et al., 2022, arXiv:2203.02714. No code by the authors is known; Leminhbinh0209/LookSAM projects the whole vector, as here by "
        "default (but its first cycle projects on a buffer that holds the weights), rollovd/LookSAM each tensor."
    )
    cost = StepCost(backward=Formula("1 + 1/k", lambda self, _: 1 + 1 / self.k))
    rho: NonNegative = 0.1
    k: Count = hyperparameter(5, "A SAM step every so many steps; 1 is SAM.")
    alpha: NonNegative = hyperparameter(0.7, "Length of the reused part in units of the gradient's norm.")
    granularity: Literal["global", "tensor"] = hyperparameter(
        "global", "Whether projection and rescaling look at the whole vector or at each tensor; the perturbation is always global."
    )

    def init(self, w: Tensor, task: Task) -> State:
        """The cycle begins."""
        return {**super().init(w, task), "looksam_step": 0}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """The cycle begins anew, g_v belongs to the old weights."""
        return {**{name: value for name, value in state.items() if name != "g_v"}, "looksam_step": 0}

    def reduction_reason(self, steps: int) -> str | None:
        """With k = 1 or a single step it reduces to SAM, as no step reuses anything."""
        return "looksam: every local step is the first of a cycle, which is SAM" if self.k == 1 or steps == 1 else None

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """A SAM step, or a step that reuses its part."""
        return StepPlan("reuse" if state["looksam_step"] % self.k else "sam")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """Two passes in a SAM step, one in a step that reuses."""
        state = {**state, "looksam_step": state["looksam_step"] + 1}
        if step.plan.kind == "sam":
            return self._refresh(w, state, step)
        g, losses = step.grad(w)
        # Without a perturbation g_v is rounding noise, which must not be stretched.
        alpha, g_v = self.alpha if self.rho else 0.0, state["g_v"]
        scale = self._each(lambda _, a, b: norm(a) / (norm(b) + 1e-12), step.objective.layout, g, g_v)
        return g + alpha * scale * g_v, losses, state

    def _refresh(self, w: Tensor, state: State, step: Step) -> Gradient:
        g, losses = step.grad(w)
        g_s, _ = step.grad(w + ball(g, self.rho, self.norm_eps))
        g_v = self._each(_orthogonal, step.objective.layout, g_s, g)
        return g_s, losses, {**state, "g_v": g_v}

    def _each(self, rule: Callable[..., Tensor], layout: Layout, *vectors: Tensor) -> Tensor:
        return tensorwise(rule, layout, *vectors) if self.granularity == "tensor" else rule(None, *vectors)


def _orthogonal(_: object, g_s: Tensor, g: Tensor) -> Tensor:
    """The part of g_s orthogonal to g; 0 where g is 0, whose direction says nothing."""
    square = dot(g, g)
    return torch.where(square > 0, g_s - dot(g, g_s) / square * g, 0.0)
