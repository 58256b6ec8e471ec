"""FedSMOO's two duals: FedDyn's, and one that makes the clients' perturbations agree.

Legend: `h, mu, e: (P,)` the client's duals and its last perturbation; `s: (P,)` the server's perturbation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from clients.corrections.base import LocalOutcome, Payload, Vectors
from clients.corrections.dual import Dual


@dataclass(frozen=True, kw_only=True)
class SmooDual(Dual):
    """FedDyn's dual, and the dual mu of the constraint that a client's perturbation equals the server's.

    Source: Sun et al., 2023, arXiv:2305.11584, Algorithm 1 (FedSMOO), as in FL-Simulator. mu moves in every local step (optimizer `smoo`).
    Needs server rule `fedsmoo`, whose `variant` wants what `upload` names.

    Attributes:
        upload: What goes up for the server's perturbation: mu, mu less the last perturbation, or the change of mu.
    """

    upload: Literal["mu", "mu_minus_last", "mu_change"] = "mu"

    @property
    def keeps(self) -> tuple[str, ...]:
        """Both duals."""
        return ("h", "mu")

    @property
    def needs(self) -> tuple[str, ...]:
        """The server's perturbation."""
        return ("s",)

    @property
    def sends(self) -> tuple[str, ...]:
        """What `upload` names."""
        return ("population.mu_change",) if self.upload == "mu_change" else (f"mean.{self.upload}",)

    @property
    def reads(self) -> tuple[str, ...]:
        """The dual and the perturbation of the last local step."""
        return ("mu", "e")

    def start(self, w: Tensor, received: Vectors, kept: Vectors) -> Vectors:
        """FedDyn's term, and what the optimizer perturbs with."""
        return {**super().start(w, received, kept), "mu": kept["mu"], "s": received["s"]}

    def finish(self, trained: LocalOutcome, received: Vectors, kept: Vectors) -> tuple[Vectors, Payload]:
        """Both duals, and what `upload` names."""
        mu = trained.state["mu"]
        if self.upload == "mu_change":
            sent = Payload(population={"mu_change": mu - kept["mu"]})
        elif self.upload == "mu":
            sent = Payload(mean={"mu": mu})
        else:
            sent = Payload(mean={"mu_minus_last": mu - trained.state["e"]})
        return {**super().finish(trained, received, kept)[0], "mu": mu}, sent
