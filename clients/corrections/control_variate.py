"""SCAFFOLD's control variates, on the client.

Legend: `g: (P,)` gradient; `c, c_i: (P,)` the server's and the client's control variate; `D: (P,)` delta; `K` local steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from clients.corrections.base import Correction, LocalOutcome, Payload, Vectors
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class ControlVariate(Correction):
    """Replaces the client's own drift by the population's: adds c - c_i to every descent gradient."""

    source = (
        "Karimireddy et al., 2020, arXiv:1910.06378, Algorithm 1, option II, with the learning rates of the steps really taken. "
        "As in every release, c_i is no longer the mean gradient where a clip, momentum or weight decay acts. Needs server rule `scaffold`."
    )
    keeps = ("c",)
    needs: ClassVar[tuple[str, ...]] = ("c",)
    sends: ClassVar[tuple[str, ...]] = ("population.c",)
    scale: NonNegative = hyperparameter(1.0, "Factor of c - c_i; 1 in SCAFFOLD, 0.1 by default in the released FedLESAM-S.")

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        return {"variate": self.scale * (server_payload["c"] - client_state["c"])}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        return g + terms["variate"]

    def reach(self, outcome: LocalOutcome) -> float:
        """What the delta is divided by to be a mean gradient."""
        return outcome.reach

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """The new c_i, and its change."""
        change = -server_payload["c"] - outcome.delta / self.reach(outcome)  # c_i+ - c_i, option II
        return {**client_state, "c": client_state["c"] + change}, Payload(population={"c": change})
