"""FedSOL: perturb against the proximal loss.

Legend: `w, w0, g, e, t: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer, State, Task, ball, norm
from fedsam.config import NonNegative, Positive
from fedsam.models.flat import Layout


@dataclass(frozen=True, kw_only=True)
class SOL(LocalOptimizer):
    """Descend with the loss gradient at the point where the model has most forgotten the predictions it started the round with.

    Source: Lee et al., 2023, arXiv:2308.12532 (FedSOL), as in the authors' code: the proximal loss is the divergence of the softened
    predictions. In the first step of a round they agree and its gradient is rounding noise, which the released fixed radius blows up to a
    full-length perturbation; here a gradient shorter than `floor` perturbs nothing.
    Cost: forward 1 backward 2 per example and step.

    Attributes:
        rho: Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.
        adaptive: Scale each scalar by how far it has moved in this round, normalized along the first dimension of its tensor.
        tau: Temperature of the softmax in the divergence.
        floor: Shortest gradient of the divergence that perturbs.
        norm_eps: Added to the gradient norm in the denominator.
    """

    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0}
    rho: NonNegative = 1.0
    adaptive: bool = True
    tau: Positive = 3.0
    floor: NonNegative = 1e-6
    norm_eps: NonNegative = 1e-12

    def init(self, w: Tensor, task: Task) -> State:
        """Where the round started."""
        return {"w0": w}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """As `LocalOptimizer.resume`: the new round starts elsewhere."""
        return {**state, **self.init(w, task)}

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: the start's forward pass, an ascent and a descent pass."""
        with objective.aside():
            teacher = objective.logits(state["w0"], batch)
        g, losses = objective.distilled(w, batch, teacher, temperature=self.tau, weight=1.0, task=0.0)
        e = ball(g, self.rho, self.norm_eps) * (norm(g) >= self.floor)
        if self.adaptive:
            e = e * movement(w - state["w0"], objective.layout)
        g, _ = objective.grad(w + e, batch)
        return g, losses, state


def movement(moved: Tensor, layout: Layout) -> Tensor:
    """|moved| (..., P), of L2 norm 1 along the first dimension of each tensor; 0 where nothing moved."""
    views = zip(layout.segments, layout.views(moved.abs()).values(), strict=True)
    scaled = [torch.nn.functional.normalize(v, dim=v.ndim - len(s.shape)) if s.shape else torch.sign(v)[..., None] for s, v in views]
    return torch.cat([v.flatten(moved.ndim - 1) for v in scaled], dim=-1)
