"""FedGF's interpolated point.

Legend: `w, g, e, y, wp: (..., P)`; `share: (1,)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.optimizers.base import Gradient, LocalOptimizer, State, Step, Task, ball
from clients.optimizers.cost import StepCost
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class FedGF(LocalOptimizer):
    """Descend with the gradient between the local worst point and the server's perturbed vector."""

    source = (
        "Lee and Yoon, 2024, Rethinking the flat minima searching in federated learning, ICML, openreview 6TM62kpI5c (FedGF), as in the "
        "authors' code. The server's vector and its weight come from correction `global_point`; outside a federation the weight is 0, "
        "which is SAM."
    )
    cost = StepCost(backward=2)
    needs = ("wp", "share")
    reduces_to_base = {"rho": 0.0}
    rho: NonNegative = hyperparameter(0.05, "Radius of the local perturbation, in units of the parameters' L2 norm.")
    norm_eps: NonNegative = hyperparameter(1e-16, "Added to the gradient norm in the denominator.")

    def init(self, w: Tensor, task: Task) -> State:
        """The server's vector and its weight."""
        return {"wp": task.terms.get("wp", w), "share": task.terms.get("share", w.new_zeros(1))}

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """An ascent and a descent pass."""
        g, losses = step.grad(w)
        e = ball(g, self.rho, self.norm_eps)
        y = state["share"] * state["wp"] + (1 - state["share"]) * (w + e)
        g, _ = step.grad(y)
        return g, losses, state
