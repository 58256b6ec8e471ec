"""FedSMOO's two duals: FedDyn's, and one that makes the clients' perturbations agree.

Legend: `h, mu, e: (P,)` the client's duals and its last perturbation; `s: (P,)` the server's perturbation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from clients.corrections.base import LocalOutcome, Payload, Vectors
from clients.corrections.dual import Dual
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class SmooDual(Dual):
    """FedDyn's dual, and the dual mu of the constraint that a client's perturbation equals the server's."""

    source = (
        "Sun et al., 2023, arXiv:2305.11584, Algorithm 1 (FedSMOO), as in FL-Simulator. mu moves in every local step (optimizer "
        "`fedsmoo`). Needs server rule `fedsmoo`, whose `variant` wants what `upload` names."
    )
    keeps = ("h", "mu")
    needs = ("s",)
    reads = ("mu", "e")
    upload: Literal["mu", "mu_minus_last", "mu_change"] = hyperparameter(
        "mu", "What goes up for the server's perturbation: mu, mu less the last perturbation, or the change of mu."
    )

    @property
    def sends(self) -> tuple[str, ...]:
        """What `upload` names."""
        return ("population.mu_change",) if self.upload == "mu_change" else (f"mean.{self.upload}",)

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        """FedDyn's term, and what the optimizer perturbs with."""
        return {**super().start(w, server_payload, client_state), "mu": client_state["mu"], "s": server_payload["s"]}

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """Both duals, and what `upload` names."""
        mu = outcome.state["mu"]
        if self.upload == "mu_change":
            payload = Payload(population={"mu_change": mu - client_state["mu"]})
        elif self.upload == "mu":
            payload = Payload(mean={"mu": mu})
        else:
            payload = Payload(mean={"mu_minus_last": mu - outcome.state["e"]})
        return {**super().finish(outcome, server_payload, client_state)[0], "mu": mu}, payload
