"""FedWMSAM's personalised momentum, on the client.

Legend: `g: (P,)` gradient; `c, c_i: (P,)` the server's and the client's control variate; `m: (P,)` the server's momentum in units of a
gradient; `q: (P,)` the client's own; `D: (P,)` delta; `alpha: (1,)` weight of the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clients.corrections.base import LocalOutcome, Payload, Vectors
from clients.corrections.control_variate import ControlVariate


@dataclass(frozen=True, kw_only=True)
class PersonalMomentum(ControlVariate):
    """Client momentum and control variate in one, in a mixture whose weight the server adapts; gives optimizer `fedwmsam` its momentum."""

    source = (
        "Li et al., 2025, arXiv:2511.22080 (FedWMSAM), in the one reading of the paper in which local steps descend and the perturbation "
        "ascends; neither the released code, which perturbs by misaligned tensors and the other way, nor the printed signs are reproduced. "
        "Needs server rule `fedwmsam`."
    )
    needs = ("c", "m", "alpha")
    sends = ("population.c", "metrics.disagreement")

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        """q, and the weight alpha."""
        alpha, variate = server_payload["alpha"], super().start(w, server_payload, client_state)["variate"]
        return {"q": server_payload["m"] + alpha / (1 - alpha) * variate, "alpha": alpha}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        """alpha g + (1 - alpha) q, which is alpha (g + c - c_i) + (1 - alpha) m."""
        return terms["alpha"] * g + (1 - terms["alpha"]) * terms["q"]

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """As SCAFFOLD's, and 1 + cos(D, m): 0 where the client went down the momentum, which points uphill."""
        client_state, payload = super().finish(outcome, server_payload, client_state)
        return client_state, replace(payload, metrics={"disagreement": _disagreement(outcome.delta, server_payload["m"])})


def _disagreement(delta: Tensor, m: Tensor) -> float:
    """1 + cos(D, m), and 0 where one of them is 0."""
    lengths = torch.linalg.vector_norm(delta) * torch.linalg.vector_norm(m)
    return float(1 + torch.dot(delta, m) / lengths) if bool(lengths > 0) else 0.0
