"""FedProx's proximal term.

Legend: `x, w, g: (P,)`: local iterate, received global vector, gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, Vectors
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class Proximal(Correction):
    """Adds mu/2 |x - w|^2 to the client's loss: local iterates stay near the received vector."""

    source = "Li et al., 2020, arXiv:1812.06127, Eq. 2 (FedProx)."
    mu: NonNegative = hyperparameter(0.1, "Coefficient of the proximal term; 0 is no correction.")

    @property
    def kappa(self) -> float:
        """The x half of mu (x - w)."""
        return self.mu

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        """The anchor of the round."""
        return {"w": w}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        """The anchor half of mu (x - w)."""
        return g - self.mu * terms["w"]
