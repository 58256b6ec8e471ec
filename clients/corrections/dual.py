"""FedDyn's dual variable.

Legend: `x, w, g: (P,)` local iterate, received vector, gradient; `h: (P,)` the client's dual, a running sum of its deltas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from clients.corrections.base import Correction, LocalOutcome, Payload, Vectors
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class Dual(Correction):
    """Dynamic regularization: pulls towards the received vector, shifted by where this client has gone in all its rounds."""

    source = (
        "Acar et al., 2021, arXiv:2111.04263, Algorithm 1, with h = -(dual) / lam; the authors' code divides lam by the client's share of "
        "the examples, FL-Simulator does not, nor do we. Meant for server rule `feddyn`. With lam = 1 / beta it is also the client of "
        "FedGloSS (arXiv:2412.03752), whose sigma is -lam h."
    )
    keeps: ClassVar[tuple[str, ...]] = ("h",)
    lam: NonNegative = hyperparameter(0.1, "Coefficient of the penalty; the papers' lambda or 1 / beta.")
    anchored: bool = hyperparameter(True, "Whether there is a quadratic penalty; without it only the linear term lam h remains (FedGMT).")

    @property
    def kappa(self) -> float:
        """The x half of lam (x - w)."""
        return self.lam if self.anchored else 0.0

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        """The part of the penalty's gradient that does not depend on x: lam (h - w)."""
        return {"dual": self.lam * (client_state["h"] - w if self.anchored else client_state["h"])}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        return g + terms["dual"]

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """The dual moves with the client; the server sees that in the delta."""
        return {**client_state, "h": client_state["h"] + outcome.delta}, Payload()
