"""FedNova's normalized delta.

Legend: `D: (P,)` delta; `a` how far the client's gradients were carried, in local steps; `K` local steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from clients.corrections.base import LocalOutcome, Payload, Vectors
from clients.corrections.proximal import Proximal
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class Normalized(Proximal):
    """Sends D / a, so that clients with more local steps do not count for more.

    Source: Wang et al., 2020, arXiv:2007.07481, Eq. 7 (FedNova): a is K for plain SGD, and follows momentum and the proximal term
    where there are any. Needs server rule `fednova`.

    Attributes:
        mu: Coefficient of a proximal term; 0: none.
    """

    mu: NonNegative = 0.0

    @property
    def sends(self) -> tuple[str, ...]:
        """The client's share of the effective number of steps."""
        return ("metrics.tau",)

    def finish(self, trained: LocalOutcome, received: Vectors, kept: Vectors) -> tuple[Vectors, Payload]:
        """D / a, and a (K where there is a proximal term)."""
        a = trained.optimizer.effective_steps(trained.steps, self.kappa)
        return kept, Payload(delta=trained.delta / a, metrics={"tau": float(trained.steps) if self.mu else a})
