"""Sparse SAM: perturb only some of the parameters, those with the largest Fisher information or a mask that drops and grows.

Legend: `w, g, e, mask, score: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
from fedsam.schedules import cosine


@dataclass(frozen=True, kw_only=True)
class MaskedSAM(SAM):
    """SAM whose perturbation is 0 outside a mask, divided by the norm of the whole gradient; a subclass says which mask."""

    rho: NonNegative = 0.1
    norm_eps: NonNegative = 1e-7
    sparsity: Fraction = hyperparameter(0.5, "Share of the scalars that are not perturbed.")
    update_freq: Count = hyperparameter(1, "Refresh in every so many epochs.")
    steps_per_epoch: Count | None = hyperparameter(None, "Steps of an epoch; unset: the local steps of a round.")

    def init(self, w: Tensor, task: Task) -> State:
        """An empty mask, and how often it is refreshed."""
        period = (self.steps_per_epoch or task.steps) * self.update_freq
        return {**super().init(w, task), "mask": torch.zeros_like(w), "sparse_step": 0, "period": period}

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """With or without a refresh of the mask; a period of 0 refreshes once."""
        taken, period = state["sparse_step"], state["period"]
        return StepPlan("step" if (taken % period if period else taken) else "refresh")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g, losses = step.grad(w)
        return self._descent(w, g, state["mask"], step), losses, state

    def _descent(self, w: Tensor, g: Tensor, mask: Tensor, step: Step) -> Tensor:
        """The gradient where the masked `g` leads to."""
        e = mask * self.rho * g / (norm(g) + self.norm_eps)
        g2, _ = step.grad(w + e)
        return g2


@dataclass(frozen=True, kw_only=True)
class SparseSAM(MaskedSAM):
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
    num_samples: Count = hyperparameter(16, "The client's examples whose gradients are scored one by one.")
    leftover: bool = hyperparameter(False, "Add the descent gradient to that of the first scored example, as the code does.")

    def init(self, w: Tensor, task: Task) -> State:
        """An empty mask and the examples to score; raises `ConfigError` if there are none to be had."""
        if task.peek is None:
            raise ConfigError("client.optimizer: sparse_sam needs the client's examples (Task.peek) to score its parameters")
        samples = task.peek(self.num_samples)
        return {**super().init(w, task), "x": samples.x, "y": samples.y}

    def reduction_reason(self, steps: int) -> str | None:
        """A single step reduces it to the base optimizer, as the first step has no mask yet."""
        return "sparse_sam: its first step perturbs nothing, which is the base optimizer, and there is no other" if steps == 1 else None

    def advance(self, w: Tensor, state: State, step: Step) -> Stepped:
        """The base step, and where it is planned a new mask at the weights after it."""
        g, losses, after = self.gradient(w, state, step)
        w, state = self.move(w, state, after, g, step.objective)
        mask = self._fisher_mask(w, g, state, step.objective) if step.plan.kind == "refresh" else state["mask"]
        return w, {**state, "mask": mask, "sparse_step": state["sparse_step"] + 1}, losses

    def _fisher_mask(self, w: Tensor, descent: Tensor, state: State, objective: Objective) -> Tensor:
        samples, score = Batch(state["x"], state["y"]), torch.zeros_like(w)
        with objective.aside(evaluation=True):
            for i in range(samples.size):
                g, _ = objective.grad(w, piece(samples, i, i + 1))
                score = score + (g + descent if self.leftover and i == 0 else g) ** 2
        return _largest(score, int(w.shape[-1] * (1 - self.sparsity)))


@dataclass(frozen=True, kw_only=True)
class DynamicSparseSAM(MaskedSAM):
    """SAM whose perturbation is 0 outside a mask that starts at random, drops the scalars with small gradients and grows others at random.

    The share that is dropped falls over the rounds along a cosine. A fresh state in every round starts from a random mask in every round.
    """

    source = (
        "Mi et al., 2022, arXiv:2210.05177, with the dynamic mask (SSAM-D), read in Mi-Peng/Sparse-Sharpness-Aware-Minimization; the epoch "
        "there is the round here. The new mask is made of the first pass's gradient and serves from the next step on."
    )
    cost = StepCost(backward=2)
    drop_rate: Fraction = hyperparameter(0.5, "Share of the mask that is exchanged at a refresh in the first round.")

    @property
    def uses_rounds(self) -> bool:
        """The share that is dropped falls towards the last round."""
        return self.drop_rate > 0

    def init(self, w: Tensor, task: Task) -> State:
        """No mask yet, and the share that is dropped in this round."""
        dropped = self.drop_rate * cosine(task.round, task.rounds) if self.drop_rate else 0.0
        return {**super().init(w, task), "dropped": dropped}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """The mask stays; the share that is dropped is that of the new round."""
        return {**state, "dropped": self.init(w, task)["dropped"]}

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """With a seed of its own where the mask is refreshed."""
        planned = super().plan(state, rng)
        return replace(planned, seed=int(rng.random() * 2**53)) if planned.kind == "refresh" else planned

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass; with a refresh, the mask for the next step."""
        if step.plan.kind != "refresh":
            g2, losses, _ = super().gradient(w, state, step)
            return g2, losses, {**state, "sparse_step": state["sparse_step"] + 1}
        assert step.plan.seed is not None
        generator = torch.Generator(w.device).manual_seed(step.plan.seed)
        first, grown = (torch.rand(w.shape[-1], generator=generator, dtype=w.dtype, device=w.device) for _ in range(2))
        size = w.shape[-1]
        mask = state["mask"] if state["sparse_step"] else _largest(first.expand_as(w), size - math.ceil(size * self.sparsity))
        g, losses = step.grad(w)
        after = {**state, "mask": self._exchanged(mask, g, grown, state["dropped"]), "sparse_step": state["sparse_step"] + 1}
        return self._descent(w, g, mask, step), losses, after

    def _exchanged(self, mask: Tensor, g: Tensor, draws: Tensor, dropped: float) -> Tensor:
        """The mask without its scalars of smallest |g|, and with as many others, those with the largest `draws` (P,)."""
        size, inactive = mask.shape[-1], mask.shape[-1] * self.sparsity
        active = size - inactive
        kept = _largest((g.abs() + 1e-7) * mask, int(active * (1 - dropped)))
        return kept + _largest((draws + 1) * (1 - mask), int(min(active * dropped, inactive)))


def _largest(score: Tensor, count: int) -> Tensor:
    """1 where `score` (..., P) is among the `count` largest, else 0."""
    return torch.zeros_like(score).scatter(-1, score.topk(count, dim=-1).indices, 1.0)
