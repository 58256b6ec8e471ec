"""K-SAM: sharpness-aware minimization on the examples with the highest losses.

Legend: `w, g, e: (..., P)`; `order: (..., B)` examples by falling loss; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from clients.objective import Batch
from clients.optimizers.base import Gradient, State, Step, ball
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.esam import examples
from clients.optimizers.sam import SAM
from fedsam.documentation import hyperparameter

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class KSAM(SAM):
    """SAM whose two passes see only the batch's examples with the highest losses at the weights."""

    source = (
        "Ni et al., 2022, arXiv:2210.12864; a reconstruction from descriptions, no code is known. That both subsets are ranked once, at "
        "the unperturbed weights, their sizes and the mean over them are our choices. The gradient is biased towards hard examples, and "
        "so, with noisy labels, towards wrong ones. Running statistics follow the full forward pass."
    )
    cost = StepCost(forward=1, backward=Formula("ascent_share + descent_share", lambda self, _: self.ascent_share + self.descent_share))
    reduces_to_base = {"rho": 0.0, "ascent_share": 1.0, "descent_share": 1.0}
    ascent_share: Share = hyperparameter(
        0.5, "Share of the batch, rounded down but at least one example, that the perturbation comes from."
    )
    descent_share: Share = hyperparameter(0.5, "Share of the batch that the descent gradient comes from; both 1 is SAM.")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """A forward pass of all, then an ascent and a descent pass of the hardest."""
        losses = step.objective.losses(w, step.batch)
        order = losses.argsort(dim=-1, descending=True, stable=True)  # ties by lower index
        g, _ = step.objective.grad(w, _hardest(step.batch, order, self.ascent_share))
        g2, _ = step.objective.grad(w + ball(g, self.rho, self.norm_eps), _hardest(step.batch, order, self.descent_share))
        return g2, losses, state


def _hardest(batch: Batch, order: Tensor, share: float) -> Batch:
    """The first `share` of `order`; a batch (B, ...) that the clients share becomes one for each of them."""
    chosen = order[..., : max(1, int(share * batch.size))]
    if batch.y.ndim == 1:
        return Batch(batch.x[chosen], batch.y[chosen])
    return examples(batch, chosen)
