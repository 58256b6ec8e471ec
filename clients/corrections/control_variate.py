"""SCAFFOLD's control variates, on the client.

Legend: `g: (P,)` gradient; `c, c_i: (P,)` the server's and the client's control variate; `D: (P,)` delta; `K` local steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.corrections.base import Correction, LocalOutcome, Payload, Vectors
from fedsam.config import NonNegative


@dataclass(frozen=True, kw_only=True)
class ControlVariate(Correction):
    """Replaces the client's own drift by the population's: adds c - c_i to every descent gradient.

    Source: Karimireddy et al., 2020, arXiv:1910.06378, Algorithm 1, option II, with the steps really taken and this round's learning
    rate. As in every release, c_i is no longer the mean gradient where a clip, momentum or weight decay acts. Needs server rule
    `scaffold`.

    Attributes:
        scale: Factor of c - c_i; 1 in SCAFFOLD, 0.1 by default in the released FedLESAM-S.
    """

    scale: NonNegative = 1.0

    @property
    def keeps(self) -> tuple[str, ...]:
        """The client's control variate."""
        return ("c",)

    @property
    def needs(self) -> tuple[str, ...]:
        """The server's control variate."""
        return ("c",)

    @property
    def sends(self) -> tuple[str, ...]:
        """The change of the client's control variate."""
        return ("population.c",)

    def start(self, w: Tensor, received: Vectors, kept: Vectors) -> Vectors:
        """c - c_i, constant over the round."""
        return {"variate": self.scale * (received["c"] - kept["c"])}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        """g + c - c_i."""
        return g + terms["variate"]

    def finish(self, trained: LocalOutcome, received: Vectors, kept: Vectors) -> tuple[Vectors, Payload]:
        """The new c_i, and its change."""
        change = -received["c"] - trained.delta / (trained.steps * trained.optimizer.lr)  # c_i+ - c_i, option II
        return {**kept, "c": kept["c"] + change}, Payload(population={"c": change})
