"""FedNova's normalized delta.

Legend: `D: (P,)` delta; `a` how far the client's gradients were carried, in local steps; `K` local steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from clients.corrections.base import LocalOutcome, Payload, Vectors
from clients.corrections.proximal import Proximal
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class Normalized(Proximal):
    """Sends D / a, so that clients with more local steps do not count for more."""

    source = (
        "Wang et al., 2020, arXiv:2007.07481, Eq. 7 (FedNova): a is K for plain SGD, and follows momentum and the proximal term where "
        "there are any. Needs server rule `fednova`."
    )
    sends = ("metrics.tau",)
    mu: NonNegative = hyperparameter(0.0, "Coefficient of a proximal term; 0: none.")

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """D / a, and a (K where there is a proximal term; less where the rate falls within the round)."""
        a = outcome.optimizer.effective_steps(outcome.steps, self.kappa, outcome.rate)
        return client_state, Payload(delta=outcome.delta / a, metrics={"tau": outcome.rate.reach(outcome.steps) if self.mu else a})
