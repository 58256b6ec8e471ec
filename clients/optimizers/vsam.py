"""vSAM: the perturbation's effect on the gradient is measured on sampled steps and reused in between.

Legend: `w, g1, g2, h: (..., P)`; `norms, ratios, variances: (..., K)` of the last K sampled steps; "..." are client axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import Decay, Gradient, State, Step, Stepped, StepPlan, Task, ball, norm
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from fedsam.config import ConfigError, Count, NonNegative
from fedsam.documentation import hyperparameter

REUSES = 6  # times that one h is used again; the released code's rounding makes it seven for some beta


@dataclass(frozen=True, kw_only=True)
class VSAM(SAM):
    """SAM on a share of the steps that follows the spread of h = g(w + e) - g(w); on the others the gradient plus the faded last h.

    A fresh state in every round begins with the warm-up: a local training that is no longer is SAM, and of the window - 1 steps
    after it none is sampled. For short ones choose a small window and warm-up, or keep the state, whose h is then dropped.
    """

    source = "Deng et al., 2024, arXiv:2403.08821, as in ajiaaa/vSAM; paper and code could be compared in outline only."
    cost = StepCost(
        backward=Formula("1 + p", lambda _, at: 1 + at.p), note="p, the share of sampled steps, is at most max_p after the warm-up"
    )
    window: Annotated[int, Field(ge=2)] = hyperparameter(
        50, "Sampled steps that the statistics look back on, and steps between two changes of the share; K in the paper."
    )
    blocks: Count = hyperparameter(5, "The sorted norms of h are cut into so many blocks, whose variances are averaged.")
    max_p: Annotated[float, Field(gt=0, le=1)] = hyperparameter(0.8, "Largest share of sampled steps.")
    alpha_ratio: NonNegative = hyperparameter(0.13, "Weight of the relative change of |h|/|g| in the change of the share.")
    alpha_var: NonNegative = hyperparameter(0.13, "Weight of the relative change of the variance.")
    beta: Decay = hyperparameter(0.7, "Decay of h with each reuse; after six it is not used.")
    last_tensors: Count = hyperparameter(10, "These norms see only the last so many tensors.")
    warmup_steps: Count = hyperparameter(
        50, "Steps at the start that are all sampled, at least `window`; the published runs take 3 epochs."
    )

    def __post_init__(self) -> None:
        if self.warmup_steps < self.window:
            raise ConfigError(
                f"warmup_steps: {self.warmup_steps!r} is not allowed: at least window = {self.window}, to fill the statistics"
            )
        if self.blocks > self.window:
            raise ConfigError(f"blocks: {self.blocks!r} is not allowed: at most window = {self.window}")

    def init(self, w: Tensor, task: Task) -> State:
        """Empty statistics, no h, the warm-up ahead. `step_after` counts the steps after it from 1."""
        empty = w.new_zeros(*w.shape[:-1], self.window)
        plain = {"warmup_left": self.warmup_steps, "step_after": 1, "sampled": 1, "rate": 1.0, "reuses": REUSES}
        return {**plain, "h": torch.zeros_like(w), "norms": empty, "ratios": empty, "variances": empty}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """The old h belongs to the old weights."""
        return {**state, "reuses": REUSES}

    def reduction_reason(self, steps: int) -> str | None:
        if 0 < steps <= self.warmup_steps:
            return f"vsam: {steps} local steps do not leave its warm-up of {self.warmup_steps}: it is SAM"
        if 0 < steps < self.warmup_steps + self.window:
            first = self.warmup_steps + self.window
            return f"vsam: {steps} local steps end before step {first}, the first after its warm-up that can be sampled"
        return None

    def step(self, w: Tensor, state: State, objective: Objective, batch: Batch, rng: np.random.Generator) -> Stepped:
        """A step at the present share of sampled steps."""
        return super().step(w, self.adapted(state), objective, batch, rng)

    def adapted(self, state: State) -> State:
        """The state with a new share of sampled steps, every `window` steps after the warm-up; read back from the device here."""
        if state["warmup_left"] or state["step_after"] % self.window:
            return state
        growth = 1 + self.alpha_ratio * _change(state["ratios"]) + self.alpha_var * _change(state["variances"])
        rate = max(min(state["rate"] * growth, math.floor(self.window * self.max_p)), 1.0)
        return {**state, "rate": rate, "sampled": 0}

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """A sampled step (`sam`), one that reuses h, or one with the gradient alone (`plain`)."""
        if state["warmup_left"]:
            return StepPlan("sam")
        open_ = math.floor(state["rate"]) - state["sampled"]
        drawn = open_ > 0 and rng.random() >= 1 - state["rate"] / self.window
        if drawn or self.window - state["step_after"] % self.window <= open_:
            return StepPlan("sam")
        return StepPlan("reuse" if state["reuses"] < REUSES else "plain")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """Two passes in a sampled step, else one."""
        state = {**state, **self._counted(state, step.plan)}
        g1, losses = step.grad(w)
        if step.plan.kind == "plain":
            return g1, losses, state
        if step.plan.kind == "reuse":
            return g1 + self.beta ** state["reuses"] * state["h"], losses, state
        g2, _ = step.grad(w + ball(g1, self.rho, self.norm_eps))
        h = g2 - g1
        start = step.objective.layout.segments[-self.last_tensors :][0].start
        size = norm(h[..., start:])
        norms = _appended(state["norms"], size)
        ratios = _appended(state["ratios"], size / norm(g1[..., start:]))
        variances = _appended(state["variances"], self._block_variance(norms))
        return g2, losses, {**state, "h": h, "norms": norms, "ratios": ratios, "variances": variances}

    def _counted(self, state: State, plan: StepPlan) -> State:
        left, sampled = state["warmup_left"], state["sampled"]
        reuses = 0 if plan.kind == "sam" else state["reuses"] + (plan.kind == "reuse")
        if left:
            return {"warmup_left": left - 1, "reuses": reuses}
        return {"step_after": state["step_after"] + 1, "sampled": sampled + (plan.kind == "sam"), "reuses": reuses}

    def _block_variance(self, norms: Tensor) -> Tensor:
        """Mean (..., 1) of the variances of equal blocks of the sorted norms (..., K); what does not fill a block is left out."""
        size = self.window // self.blocks
        blocks = norms.sort(dim=-1).values[..., : size * self.blocks].reshape(*norms.shape[:-1], self.blocks, size)
        return blocks.var(dim=-1, correction=0).mean(dim=-1, keepdim=True)


def _appended(window: Tensor, value: Tensor) -> Tensor:
    """The window (..., K) without its oldest entry and with `value` (..., 1) at its end."""
    return torch.cat([window[..., 1:], value], dim=-1)


def _change(window: Tensor) -> float:
    """Mean relative change between neighbours of a window (K,), within [-1, 1]; 0 for a pair without a ratio. Read back here.

    Raises:
        ValueError: The window has client axes.
    """
    if window.ndim > 1:
        raise ValueError("vsam samples by each client's own statistics: after the warm-up clients cannot take their steps together")
    values = window.to("cpu", torch.float64)
    changes = (values.diff() / values[:-1]).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return float(changes.mean().clamp(-1, 1))
