"""FedGMT: imitate the averaged global model instead of perturbing.

Legend: `w, g, ema: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer, State, Task
from fedsam.config import NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class GMT(LocalOptimizer):
    """Descend on the loss plus the divergence from the predictions of an averaged global model.

    Source: Li et al., 2025, One arrow, two hawks: sharpness-aware minimization for federated learning via global model trajectory, ICML,
    openreview 80mK2Mqaph (FedGMT), as in the authors' code. The averaged model comes from correction `ema_teacher`; outside a
    federation it is the model at the start.
    Cost: forward 1 backward 1 per example and step.

    Attributes:
        tau: Temperature of the softmax in the divergence.
        gamma: Coefficient of the divergence, times tau squared; 0 is the base optimizer.
    """

    needs: ClassVar[tuple[str, ...]] = ("ema",)
    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"gamma": 0.0}
    tau: Positive = 3.0
    gamma: NonNegative = 1.0

    def init(self, w: Tensor, task: Task) -> State:
        """The averaged model."""
        return {"ema": task.terms.get("ema", w)}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """As `LocalOptimizer.resume`: the teacher is that of the new round."""
        return {**state, **self.init(w, task)}

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: the teacher's forward pass, then one gradient."""
        with objective.aside():
            teacher = objective.logits(state["ema"], batch)
        g, losses = objective.distilled(w, batch, teacher, temperature=self.tau, weight=self.gamma * self.tau**2)
        return g, losses, state
