"""FedGF's global perturbation, on the client.

Legend: `wp: (P,)` the server's perturbed vector; `share: (1,)` its weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, Vectors


@dataclass(frozen=True, kw_only=True)
class GlobalPoint(Correction):
    """Gives optimizer `fedgf` the server's perturbed vector and its weight; adds nothing to the step itself."""

    source = (
        "Lee and Yoon, 2024, Rethinking the flat minima searching in federated learning, ICML, openreview 6TM62kpI5c (FedGF). Needs "
        "server rule `fedgf`."
    )
    needs = ("wp", "share")

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        return {name: server_payload[name] for name in self.needs}
