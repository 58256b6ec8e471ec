"""Sparse SAM: perturb only the parameters with the largest Fisher information.

Legend: `w, g, e, mask, score: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import Gradient, State, Step, Stepped, StepPlan, Task, norm
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from clients.optimizers.tensors import piece
from fedsam.config import ConfigError, Count, Fraction, NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class SparseSAM(SAM):
    """SAM whose perturbation is 0 outside a mask of the scalars with the largest squared gradients.

    The mask starts at 0 and is refreshed after the first step of an epoch, at the weights after that step. A fresh state in every round
    makes the first local step an expensive base step, and a single local step nothing else.
    """

    source = (
        "Mi et al., 2022, arXiv:2210.05177, with the Fisher mask (SSAM-F), in the form of Mi-Peng/Sparse-Sharpness-Aware-Minimization. "
        "The perturbation is divided by the norm of the unmasked gradient. The scores are taken with running statistics and from cleared "
        "gradients; the code's first score includes the descent gradient (`leftover`)."
    )
    cost = StepCost(
        backward=Formula(
            "2 + num_samples / (B * S * update_freq)", lambda self, at: 2 + self.num_samples / (at.B * at.S * self.update_freq)
        )
    )
    rho: NonNegative = 0.1
    norm_eps: NonNegative = 1e-7
    sparsity: Fraction = hyperparameter(0.5, "Share of the scalars that are not perturbed.")
    num_samples: Count = hyperparameter(16, "The client's examples whose gradients are scored one by one.")
    update_freq: Count = hyperparameter(1, "Refresh in every so many epochs.")
    steps_per_epoch: Count | None = hyperparameter(None, "Steps of an epoch; unset: the local steps of a round.")
    leftover: bool = hyperparameter(False, "Add the descent gradient to that of the first scored example, as the code does.")

    def init(self, w: Tensor, task: Task) -> State:
        """An empty mask and the examples to score; raises `ConfigError` if there are none to be had."""
        if task.peek is None:
            raise ConfigError("client.optimizer: sparse_sam needs the client's examples (Task.peek) to score its parameters")
        samples = task.peek(self.num_samples)
        period = (self.steps_per_epoch or task.steps) * self.update_freq
        mask = torch.zeros_like(w)
        return {**super().init(w, task), "mask": mask, "x": samples.x, "y": samples.y, "sparse_step": 0, "period": period}

    def reduction_reason(self, steps: int) -> str | None:
        """A single step reduces it to the base optimizer, as the first step has no mask yet."""
        return "sparse_sam: its first step perturbs nothing, which is the base optimizer, and there is no other" if steps == 1 else None

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """With or without a refresh of the mask; a period of 0 refreshes once."""
        taken, period = state["sparse_step"], state["period"]
        return StepPlan("step" if (taken % period if period else taken) else "refresh")

    def advance(self, w: Tensor, state: State, step: Step) -> Stepped:
        """The base step, and where it is planned a new mask at the weights after it."""
        g, losses, after = self.gradient(w, state, step)
        w, state = self.move(w, state, after, g, step.objective)
        mask = self._fisher_mask(w, g, state, step.objective) if step.plan.kind == "refresh" else state["mask"]
        return w, {**state, "mask": mask, "sparse_step": state["sparse_step"] + 1}, losses

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g, losses = step.grad(w)
        e = state["mask"] * self.rho * g / (norm(g) + self.norm_eps)
        g2, _ = step.grad(w + e)
        return g2, losses, state

    def _fisher_mask(self, w: Tensor, descent: Tensor, state: State, objective: Objective) -> Tensor:
        samples, score = Batch(state["x"], state["y"]), torch.zeros_like(w)
        with objective.aside(evaluation=True):
            for i in range(samples.size):
                g, _ = objective.grad(w, piece(samples, i, i + 1))
                score = score + (g + descent if self.leftover and i == 0 else g) ** 2
        kept = score.topk(int(w.shape[-1] * (1 - self.sparsity)), dim=-1).indices
        return torch.zeros_like(w).scatter(-1, kept, 1.0)
