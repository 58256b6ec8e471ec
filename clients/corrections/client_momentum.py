"""FedCM's momentum, on the client.

Legend: `g: (P,)` gradient; `m: (P,)` the server's momentum, in units of a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, Vectors
from fedsam.config import Fraction
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class ClientMomentum(Correction):
    """Every local step follows mostly the direction of the last round's cohort."""

    source = (
        "Xu et al., 2021, arXiv:2106.10874, Algorithm 2 (FedCM). The momentum is zero in the first round, whose steps are therefore "
        "`alpha` times as long. Needs server rule `fedcm`."
    )
    needs = ("m",)
    alpha: Fraction = hyperparameter(0.1, "Weight of the client's own gradient; 1 is no correction.")

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        return {"momentum": (1 - self.alpha) * server_payload["m"]}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        return self.alpha * g + terms["momentum"]
