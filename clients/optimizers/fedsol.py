"""FedSOL: perturb against the proximal loss.

Legend: `w, w0, g, e, t: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step, Task, ball, norm
from clients.optimizers.cost import StepCost
from fedsam.config import NonNegative, Positive
from fedsam.documentation import hyperparameter
from fedsam.models.flat import Layout


@dataclass(frozen=True, kw_only=True)
class FedSOL(LocalOptimizer):
    """Descend with the loss gradient at the point where the model has most forgotten the predictions it started the round with."""

    source = (
        "Lee et al., 2023, arXiv:2308.12532 (FedSOL), as in the authors' code: the proximal loss is the divergence of the softened "
        "predictions. In the first step of a round they agree and its gradient is rounding noise, which the released fixed radius blows up "
        "to a full-length perturbation; here a gradient shorter than `floor` perturbs nothing."
    )
    cost = StepCost(forward=1, backward=2)
    needs_scores = True
    reduces_to_base = {"rho": 0.0}
    rho: NonNegative = hyperparameter(1.0, "Perturbation radius, in units of the parameters' L2 norm; 0 is the base optimizer.")
    adaptive: bool = hyperparameter(
        True, "Scale each scalar by how far it has moved in this round, normalized along the first dimension of its tensor."
    )
    tau: Positive = hyperparameter(3.0, "Temperature of the softmax in the divergence.")
    floor: NonNegative = hyperparameter(1e-6, "Shortest gradient of the divergence that perturbs.")
    norm_eps: NonNegative = hyperparameter(1e-12, "Added to the gradient norm in the denominator.")

    def init(self, w: Tensor, task: Task) -> State:
        """Where the round started."""
        return {"w0": w}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """The new round starts elsewhere."""
        return {**state, **self.init(w, task)}

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """The start's forward pass, an ascent and a descent pass."""
        with step.objective.aside():
            teacher = step.objective.logits(state["w0"], step.batch)
        g, losses = step.objective.distilled(w, step.batch, teacher, temperature=self.tau, weight=1.0, task=0.0)
        e = ball(g, self.rho, self.norm_eps) * (norm(g) >= self.floor)
        if self.adaptive:
            e = e * movement(w - state["w0"], step.objective.layout)
        g, _ = step.grad(w + e)
        return g, losses, state


def movement(moved: Tensor, layout: Layout) -> Tensor:
    """|moved| (..., P), of L2 norm 1 along the first dimension of each tensor; 0 where nothing moved."""
    views = zip(layout.segments, layout.views(moved.abs()).values(), strict=True)
    scaled = [torch.nn.functional.normalize(v, dim=v.ndim - len(s.shape)) if s.shape else torch.sign(v)[..., None] for s, v in views]
    return torch.cat([v.flatten(moved.ndim - 1) for v in scaled], dim=-1)
