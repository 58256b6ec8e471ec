"""Locally estimated sharpness-aware minimization (FedLESAM).

Legend: `w, e, ascent: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer, State, Task, ball
from fedsam.config import NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class LESAM(LocalOptimizer):
    """Descend with the gradient at a point perturbed, the same way all round, along the last change of the global vector.

    Source: Qu et al., 2024, arXiv:2405.18890, Algorithm 1; the direction is old minus new (correction `lookback`), which is ascent. Without
    a direction (a client's first round, or outside a federation) it is the base optimizer.
    Cost: forward 0 backward 1 per example and step.

    Attributes:
        rho: Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.
        norm_eps: Added to the norm in the denominator, > 0 because the direction can be 0.
    """

    needs: ClassVar[tuple[str, ...]] = ("ascent",)
    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0}
    rho: NonNegative = 0.1
    norm_eps: Positive = 1e-7

    def init(self, w: Tensor, task: Task) -> State:
        """The perturbation of the round."""
        ascent = task.terms.get("ascent", torch.zeros_like(w))
        return {"e": ball(ascent, self.rho, self.norm_eps)}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """As `LocalOptimizer.resume`: the perturbation is that of the new round."""
        return {**state, **self.init(w, task)}

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: one pass, at the perturbed point."""
        g, losses = objective.grad(w + state["e"], batch)
        return g, losses, state
