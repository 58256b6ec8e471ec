"""FedSpeed's prox-correction.

Legend: `x, w, g: (P,)` local iterate, received vector, gradient; `ghat: (P,)` the client's correction.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, LocalOutcome, Payload, Vectors
from fedsam.config import Positive
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class ProxCorrection(Correction):
    """A proximal term whose bias a client corrects by what the term pulled it back by in its earlier rounds."""

    source = (
        "Sun et al., 2023, arXiv:2302.10429, Algorithm 1 (FedSpeed), as restated by independent ports; the authors' release merges FedDyn "
        "with the perturbation instead (correction `dual`, server rule `feddyn`). Goes with server rule `fedavg`: the server averages "
        "x - ghat / lam."
    )
    keeps = ("ghat",)
    lam: Positive = hyperparameter(0.1, "Coefficient of the proximal term, 1 over the paper's lambda.")

    @property
    def kappa(self) -> float:
        """The x half of lam (x - w)."""
        return self.lam

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        """The part of the two terms that does not depend on x."""
        return {"prox": client_state["ghat"] + self.lam * w}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        return g - terms["prox"]

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """The new ghat, and the delta shifted by it."""
        ghat = client_state["ghat"] - self.lam * outcome.delta
        return {**client_state, "ghat": ghat}, Payload(delta=outcome.delta - ghat / self.lam)
