"""FedCM's momentum, on the client.

Legend: `g: (P,)` gradient; `m: (P,)` the server's momentum, in units of a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, Vectors
from fedsam.config import Fraction


@dataclass(frozen=True, kw_only=True)
class ClientMomentum(Correction):
    """Every local step follows mostly the direction of the last round's cohort.

    Source: Xu et al., 2021, arXiv:2106.10874, Algorithm 2 (FedCM). The momentum is zero in the first round, whose steps are therefore
    `alpha` times as long. Needs server rule `fedcm`.

    Attributes:
        alpha: Weight of the client's own gradient; 1 is no correction.
    """

    alpha: Fraction = 0.1

    @property
    def needs(self) -> tuple[str, ...]:
        """The momentum."""
        return ("m",)

    def start(self, w: Tensor, received: Vectors, kept: Vectors) -> Vectors:
        """The momentum's share, constant over the round."""
        return {"momentum": (1 - self.alpha) * received["m"]}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        """alpha g + (1 - alpha) m."""
        return self.alpha * g + terms["momentum"]
