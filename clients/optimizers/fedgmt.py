"""FedGMT: imitate the averaged global model instead of perturbing.

Legend: `w, g, ema: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step, Task
from clients.optimizers.cost import StepCost
from fedsam.config import NonNegative, Positive
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class FedGMT(LocalOptimizer):
    """Descend on the loss plus the divergence from the predictions of an averaged global model."""

    source = (
        "Li et al., 2025, One arrow, two hawks: sharpness-aware minimization for federated learning via global model trajectory, ICML, "
        "openreview 80mK2Mqaph (FedGMT), as in the authors' code. The averaged model comes from correction `ema_teacher`; outside a "
        "federation it is the model at the start."
    )
    cost = StepCost(forward=1)
    needs = ("ema",)
    needs_scores = True
    reduces_to_base = {"gamma": 0.0}
    tau: Positive = hyperparameter(3.0, "Temperature of the softmax in the divergence.")
    gamma: NonNegative = hyperparameter(1.0, "Coefficient of the divergence, times tau squared; 0 is the base optimizer.")

    def init(self, w: Tensor, task: Task) -> State:
        """The averaged model."""
        return {"ema": task.terms.get("ema", w)}

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """The teacher's forward pass, then one gradient."""
        with step.objective.aside():
            teacher = step.objective.logits(state["ema"], step.batch)
        g, losses = step.objective.distilled(w, step.batch, teacher, temperature=self.tau, weight=self.gamma * self.tau**2)
        return g, losses, state
