"""AE-SAM: sharpness-aware minimization on the steps whose gradient is unusually long.

Legend: `w, g: (..., P)`; `n2, mu, var: (..., 1)` squared gradient norm, its moving mean and variance; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import Decay, Gradient, State, Step, Stepped, StepPlan, Task, ball, dot
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from fedsam.config import ConfigError, Count, NonNegative
from fedsam.documentation import hyperparameter

Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class AESAM(SAM):
    """SAM where the squared gradient norm reaches a threshold above its moving mean, the base optimizer elsewhere.

    The decision needs this step's gradient and is needed before its second pass, so that it can be skipped. Alone among the methods a
    step therefore has two plans, `probe` and then `sam` or `plain`, and reads one value back between them.
    """

    source = (
        "Jiang et al., 2023, arXiv:2304.14647; reconstructed from descriptions, no code is known. How the moving statistics start is our "
        "choice: from the first step's gradient, since zeros would make the first steps SAM steps."
    )
    cost = StepCost(backward=Formula("1 + p", lambda _, at: 1 + at.p), note="p, the share of SAM steps, is about a half")
    delta: Decay = hyperparameter(0.9, "Decay of the moving statistics.")
    lambda1: Finite = hyperparameter(-1.0, "Threshold in standard deviations at the end of the training.")
    lambda2: Finite = hyperparameter(1.0, "Threshold in standard deviations at its start.")
    total_steps: Count | None = hyperparameter(
        None, "Local steps of one client in the whole training; unset: rounds times local steps. The threshold goes on over rounds."
    )
    mu0: NonNegative | None = hyperparameter(None, "First moving mean; unset: the first squared norm.")
    var0: NonNegative | None = hyperparameter(None, "First moving variance; unset: 0.")

    @property
    def uses_rounds(self) -> bool:
        """Whether the length of the training is left to be counted."""
        return self.total_steps is None

    def init(self, w: Tensor, task: Task) -> State:
        """Where in the whole training the round begins.

        Raises:
            ConfigError: The length of the training is unknown.
        """
        total = self.total_steps or task.rounds * task.steps
        if not total:
            raise ConfigError("client.optimizer.total_steps: must be given where the number of rounds and local steps is unknown")
        return {**super().init(w, task), "aesam_step": (task.round - 1) * task.steps, "aesam_total": total}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """The moving statistics stay, the place in the whole training is that of the round."""
        return {**state, **self.init(w, task)}

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """Probe first, then what the probe found."""
        if "probe" not in state:
            return StepPlan("probe")
        return StepPlan("sam" if bool(state["sharp"].any()) else "plain")

    def step(self, w: Tensor, state: State, objective: Objective, batch: Batch, rng: np.random.Generator) -> Stepped:
        """The probe, and what it decides."""
        w, state, losses = super().step(w, state, objective, batch, rng)
        w, state, _ = self.advance(w, state, Step(objective, batch, self.plan(state, rng)))
        return w, state, losses

    def advance(self, w: Tensor, state: State, step: Step) -> Stepped:
        """A probe leaves the weights where they are."""
        if step.plan.kind != "probe":
            return super().advance(w, state, step)
        g, losses = step.grad(w)
        return w, {**self._decide(dot(g, g), state), "probe": g}, losses

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """The probed gradient, or a second pass where it was long."""
        g, rest = state["probe"], {name: value for name, value in state.items() if name not in ("probe", "sharp")}
        if step.plan.kind == "plain":
            return g, g.new_empty(0), rest
        g2, losses = step.grad(w + ball(g, self.rho, self.norm_eps))
        return torch.where(state["sharp"], g2, g), losses, rest

    def _decide(self, n2: Tensor, state: State) -> State:
        first_mu = n2 if self.mu0 is None else torch.full_like(n2, self.mu0)
        mu, var = state.get("mu", first_mu), state.get("var", torch.full_like(n2, self.var0 or 0.0))
        mu = mu + (1 - self.delta) * (n2 - mu)  # exactly n2 on the first step
        var = self.delta * var + (1 - self.delta) * (n2 - mu) ** 2
        t = state["aesam_step"] + 1
        share = min(t / state["aesam_total"], 1.0)
        c = share * self.lambda1 + (1 - share) * self.lambda2
        return {**state, "mu": mu, "var": var, "aesam_step": t, "sharp": n2 >= mu + c * var.sqrt()}
