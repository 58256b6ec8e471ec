"""FedProx's proximal term.

Legend: `x, w, g: (P,)`: local iterate, received global vector, gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, Vectors
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class Proximal(Correction):
    """Adds mu/2 |x - w|^2 to the client's loss: local iterates stay near the received vector.

    Source: Li et al., 2020, arXiv:1812.06127, Eq. 2 (FedProx).

    Attributes:
        mu: Coefficient of the proximal term; 0 is no correction.
    """

    mu: NonNegative = 0.1

    @property
    def kappa(self) -> float:
        """The x half of mu (x - w)."""
        return self.mu

    def start(self, w: Tensor, received: Vectors, kept: Vectors) -> Vectors:
        """The anchor of the round."""
        return {"w": w}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        """The anchor half of mu (x - w)."""
        return g - self.mu * terms["w"]
