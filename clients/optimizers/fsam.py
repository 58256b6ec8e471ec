"""Friendly SAM: perturb along what is particular to the batch.

Legend: `w, g1, g2, d, e, ema: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.optimizers.asam import scaled_ball
from clients.optimizers.base import Decay, Gradient, State, Step, ball
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class FSAM(SAM):
    """SAM that perturbs along the part of the batch gradient that an average of past gradients does not explain.

    The first step is a SAM step. A fresh state in every round means that the average is that of one round's local steps: with few
    of them it is little more than the first batch's gradient, and with one step F-SAM is SAM. Where batches hardly differ (a batch
    that holds all examples of a client) the direction is rounding noise, stretched to length rho all the same.
    """

    source = (
        "Li et al., 2024, arXiv:2403.12350, as in nblt/F-SAM: the average starts as the first gradient and is subtracted before the "
        "current gradient enters it. The paper's algorithm box suggests a start at 0 and the new average, which differs for sigma != 1."
    )
    cost = StepCost(backward=2)
    sigma: NonNegative = hyperparameter(1.0, "Share of the average that is subtracted from the gradient; 0 is SAM.")
    beta: Decay = hyperparameter(0.9, "Decay of the average; lambda in the paper.")
    adaptive: bool = hyperparameter(False, "Scale the perturbation by |w|, as ASAM does; off in the published runs.")

    def reduction_reason(self, steps: int) -> str | None:
        return "fsam: its first step is a SAM step, and there is no other" if steps == 1 else None

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g1, losses = step.grad(w)
        if "ema" not in state:
            d = ema = g1
        else:
            d = g1 - self.sigma * state["ema"]
            ema = self.beta * state["ema"] + (1 - self.beta) * g1
        e = scaled_ball(d, w.abs(), self.rho, self.norm_eps) if self.adaptive else ball(d, self.rho, self.norm_eps)
        g2, _ = step.grad(w + e)
        return g2, losses, {**state, "ema": ema}
