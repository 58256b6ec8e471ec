"""FedGMT's teacher, on the client.

Legend: `ema: (P,)` the server's moving average of global vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Vectors, Wrapping


@dataclass(frozen=True, kw_only=True)
class EmaTeacher(Wrapping):
    """Gives optimizer `gmt` the averaged global vector to imitate; the local step itself is the inner correction's.

    Source: Li et al., 2025, One arrow, two hawks: sharpness-aware minimization for federated learning via global model trajectory, ICML,
    openreview 80mK2Mqaph (FedGMT), in the authors' code; there the inner correction is `dual` without its quadratic penalty. Needs
    server rule `ema`.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """The averaged vector."""
        return (*super().needs, "ema")

    def start(self, w: Tensor, received: Vectors, kept: Vectors) -> Vectors:
        """The inner terms and the teacher."""
        return {**super().start(w, received, kept), "ema": received["ema"]}
