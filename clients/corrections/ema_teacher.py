"""FedGMT's teacher, on the client.

Legend: `ema: (P,)` the server's moving average of global vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Vectors, Wrapping


@dataclass(frozen=True, kw_only=True)
class EmaTeacher(Wrapping):
    """Gives optimizer `fedgmt` the averaged global vector to imitate; the local step itself is the inner correction's."""

    source = (
        "Li et al., 2025, One arrow, two hawks: sharpness-aware minimization for federated learning via global model trajectory, ICML, "
        "openreview 80mK2Mqaph (FedGMT), in the authors' code; there the inner correction is `dual` without its quadratic penalty. Needs "
        "server rule `ema`."
    )

    @property
    def needs(self) -> tuple[str, ...]:
        """What the inner correction needs, and the averaged vector."""
        return (*super().needs, "ema")

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        return {**super().start(w, server_payload, client_state), "ema": server_payload["ema"]}
