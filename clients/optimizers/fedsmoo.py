"""FedSMOO's local perturbation.

Legend: `w, g1, g2, q, e, mu, s: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer, State, Task, ball
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class SMOO(LocalOptimizer):
    """SAM whose perturbation a dual variable pulls towards the server's.

    Source: Sun et al., 2023, arXiv:2305.11584, Algorithm 1 (FedSMOO), as in FL-Simulator: mu changes in every local step and lasts over
    the rounds (correction `fedsmoo`). Outside a federation mu and s start at 0.
    Cost: forward 0 backward 2 per example and step.

    Attributes:
        rho: Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.
        norm_eps: Added to the norm in the denominator.
    """

    needs: ClassVar[tuple[str, ...]] = ("mu", "s")
    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0}
    rho: NonNegative = 0.1
    norm_eps: NonNegative = 1e-7

    def init(self, w: Tensor, task: Task) -> State:
        """The client's dual and the server's perturbation."""
        zero = torch.zeros_like(w)
        return {"mu": task.terms.get("mu", zero), "s": task.terms.get("s", zero), "e": zero}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """As `LocalOptimizer.resume`: the dual is the correction's, s the server's."""
        return {**state, **self.init(w, task)}

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: an ascent and a descent pass."""
        g1, losses = objective.grad(w, batch)
        e = ball(g1 - state["mu"] - state["s"], self.rho, self.norm_eps)
        g2, _ = objective.grad(w + e, batch)
        return g2, losses, {**state, "mu": state["mu"] + e - state["s"], "e": e}
