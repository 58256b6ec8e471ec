"""K-SAM: sharpness-aware minimization on the examples with the highest losses.

Legend: `w, g, e: (..., P)`; `order: (..., B)` examples by falling loss; "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import State, ball
from clients.optimizers.esam import examples
from clients.optimizers.sam import SAM

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class KSAM(SAM):
    """SAM whose two passes see only the batch's examples with the highest losses at the weights.

    Source: Ni et al., 2022, arXiv:2210.12864; a reconstruction from descriptions, no code is known. That both subsets are ranked once,
    at the unperturbed weights, their sizes and the mean over them are our choices. The gradient is biased towards hard examples, and
    so, with noisy labels, towards wrong ones. Running statistics follow the full forward pass.

    Cost: forward 1 backward ascent_share + descent_share per example and step.

    Attributes:
        ascent_share: Share of the batch, rounded down but at least one example, that the perturbation comes from.
        descent_share: Share of the batch that the descent gradient comes from; both 1 is SAM.
    """

    reduces_to_base: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0, "ascent_share": 1.0, "descent_share": 1.0}
    ascent_share: Share = 0.5
    descent_share: Share = 0.5

    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """As `LocalOptimizer.gradient`: a forward pass of all, then an ascent and a descent pass of the hardest."""
        losses = objective.losses(w, batch)
        order = losses.argsort(dim=-1, descending=True, stable=True)  # ties by lower index
        g, _ = objective.grad(w, _hardest(batch, order, self.ascent_share))
        g2, _ = objective.grad(w + ball(g, self.rho, self.norm_eps), _hardest(batch, order, self.descent_share))
        return g2, losses, state


def _hardest(batch: Batch, order: Tensor, share: float) -> Batch:
    """The first `share` of `order`; a batch (B, ...) that the clients share becomes one for each of them."""
    chosen = order[..., : max(1, int(share * batch.size))]
    if batch.y.ndim == 1:
        return Batch(batch.x[chosen], batch.y[chosen])
    return examples(batch, chosen)
