"""m-sharpness: sharpness-aware minimization with one perturbation for every m examples.

Legend: `w, u, d: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, ball, norm
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from clients.optimizers.tensors import piece
from fedsam.config import Count, NonNegative, Positive
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class MSharpnessSAM(SAM):
    """The mean, over pieces of m examples of the batch, of the gradients that SAM takes on each piece alone."""

    source = (
        "Andriushchenko and Flammarion, 2022, arXiv:2206.06232, in the form of tml-epfl/understanding-sam. The last, smaller piece, which "
        "the code drops, is kept and weighs by its size. Running statistics follow the clean pass of every piece."
    )
    cost = StepCost(backward=Formula("1 + n_iters", lambda self, _: 1 + self.n_iters))
    rho: NonNegative = 0.1
    m: Count = hyperparameter(16, "Examples of a piece; from the batch size on it is SAM.")
    decay_in_loss: bool = hyperparameter(
        False, "Make the weight decay part of the loss in every pass, as the authors do; the base step then has none."
    )
    n_iters: Count = hyperparameter(1, "Ascent steps of each perturbation, projected to the ball of radius rho.")
    step_size_mult: Positive = hyperparameter(1.0, "Length of an ascent step in units of rho.")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """The passes of SAM on one piece after another."""
        u, losses = torch.zeros_like(w), []
        for start in range(0, step.batch.size, self.m):
            part = replace(step, batch=piece(step.batch, start, start + self.m))
            part.objective.begin()
            g, piece_losses = self._piece(w, part)
            u = u + part.batch.size / step.batch.size * g
            losses.append(piece_losses)
        return u, torch.cat(losses, dim=-1), state

    def descend(self, w: Tensor, state: State, q: Tensor) -> tuple[Tensor, State]:
        """Without weight decay where the loss has it."""
        return super(MSharpnessSAM, replace(self, weight_decay=0.0) if self.decay_in_loss else self).descend(w, state, q)

    def _piece(self, w: Tensor, part: Step) -> tuple[Tensor, Tensor]:
        g, losses = self._grad(w, part)
        d = ball(g, self.step_size_mult * self.rho, self.norm_eps)
        for _ in range(self.n_iters - 1):
            ascent, _ = self._grad(w + self._project(d), part)
            d = self._project(d) + ball(ascent, self.step_size_mult * self.rho, self.norm_eps)
        descent, _ = self._grad(w + self._project(d), part)
        return descent, losses

    def _grad(self, w: Tensor, part: Step) -> tuple[Tensor, Tensor]:
        g, losses = part.grad(w)
        return g + self.weight_decay * w if self.decay_in_loss else g, losses

    def _project(self, d: Tensor) -> Tensor:
        length = norm(d)
        return torch.where(length > self.rho, self.rho / length * d, d)
