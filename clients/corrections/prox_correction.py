"""FedSpeed's prox-correction.

Legend: `x, w, g: (P,)` local iterate, received vector, gradient; `ghat: (P,)` the client's correction.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, LocalOutcome, Payload, Vectors
from fedsam.config import Positive


@dataclass(frozen=True, kw_only=True)
class ProxCorrection(Correction):
    """A proximal term whose bias a client corrects by what the term pulled it back by in its earlier rounds.

    Source: Sun et al., 2023, arXiv:2302.10429, Algorithm 1 (FedSpeed), as restated by independent ports; the authors' release merges
    FedDyn with the perturbation instead (correction `dual`, server rule `feddyn`). Goes with server rule `fedavg`: the server averages
    x - ghat / lam.

    Attributes:
        lam: Coefficient of the proximal term, 1 over the paper's lambda.
    """

    lam: Positive = 0.1

    @property
    def keeps(self) -> tuple[str, ...]:
        """The correction."""
        return ("ghat",)

    @property
    def kappa(self) -> float:
        """The x half of lam (x - w)."""
        return self.lam

    def start(self, w: Tensor, received: Vectors, kept: Vectors) -> Vectors:
        """The part of the two terms that does not depend on x."""
        return {"prox": kept["ghat"] + self.lam * w}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        """g - ghat - lam w."""
        return g - terms["prox"]

    def finish(self, trained: LocalOutcome, received: Vectors, kept: Vectors) -> tuple[Vectors, Payload]:
        """The new ghat, and the delta shifted by it."""
        ghat = kept["ghat"] - self.lam * trained.delta
        return {**kept, "ghat": ghat}, Payload(delta=trained.delta - ghat / self.lam)
