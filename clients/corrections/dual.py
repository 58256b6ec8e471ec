"""FedDyn's dual variable.

Legend: `x, w, g: (P,)` local iterate, received vector, gradient; `h: (P,)` the client's dual, a running sum of its deltas.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, LocalOutcome, Payload, Vectors
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class Dual(Correction):
    """Dynamic regularization: pulls towards the received vector, shifted by where this client has gone in all its rounds.

    Source: Acar et al., 2021, arXiv:2111.04263, Algorithm 1, with h = -(dual) / lam; the authors' code divides lam by the client's
    share of the examples, FL-Simulator does not, nor do we. Meant for server rule `feddyn`. With lam = 1 / beta it is also the client of
    FedGloSS (arXiv:2412.03752), whose sigma is -lam h.

    Attributes:
        lam: Coefficient of the penalty; the papers' lambda or 1 / beta.
        anchored: Whether there is a quadratic penalty; without it only the linear term lam h remains (FedGMT).
    """

    lam: NonNegative = 0.1
    anchored: bool = True

    @property
    def keeps(self) -> tuple[str, ...]:
        """The dual."""
        return ("h",)

    @property
    def kappa(self) -> float:
        """The x half of lam (x - w)."""
        return self.lam if self.anchored else 0.0

    def start(self, w: Tensor, received: Vectors, kept: Vectors) -> Vectors:
        """The part of the penalty's gradient that does not depend on x."""
        return {"dual": self.lam * (kept["h"] - w if self.anchored else kept["h"])}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        """g + lam (h - w)."""
        return g + terms["dual"]

    def finish(self, trained: LocalOutcome, received: Vectors, kept: Vectors) -> tuple[Vectors, Payload]:
        """The dual moves with the client; the server sees that in the delta."""
        return {**kept, "h": kept["h"] + trained.delta}, Payload()
