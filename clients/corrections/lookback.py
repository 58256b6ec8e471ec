"""FedLESAM's direction of ascent: back to where the global vector was.

Legend: `w, w_old: (P,)` received global vector, an earlier one; `v: (P,)` the server's momentum, which points uphill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from clients.corrections.base import LocalOutcome, Payload, Vectors, Wrapping
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class Lookback(Wrapping):
    """Gives optimizers `fedlesam` and `fednsam` their direction, back along the global path; the step is the inner correction's."""

    source = (
        "Qu et al., 2024, arXiv:2405.18890, Algorithm 1 (FedLESAM). With inner `control_variate` it is FedLESAM-S, with inner `dual` "
        "FedLESAM-D. The authors' release takes the server's last step for everybody (`previous_round`) and shifts each tensor of the "
        "difference by an indexing error, which is not reproduced."
    )
    direction: Literal["own_last_active", "previous_round", "momentum"] = hyperparameter(
        "own_last_active",
        "Where from: the vector that this client received when it last took part, kept on the client, the last round's, sent by server "
        "rule `previous`, or along the server's momentum, sent by server rule `fednsam`. A client that has none yet does not perturb.",
    )

    @property
    def keeps(self) -> tuple[str, ...]:
        """What the inner correction keeps, and the received vector where the client has to remember it."""
        return (*super().keeps, "w_old") if self.direction == "own_last_active" else super().keeps

    @property
    def needs(self) -> tuple[str, ...]:
        """What the inner correction needs, and what the server has to send for the direction."""
        sent = {"own_last_active": (), "previous_round": ("w_old",), "momentum": ("v",)}[self.direction]
        return (*super().needs, *sent)

    def initial(self, w: Tensor) -> Vectors:
        """As if the client had just seen `w`: no direction."""
        own = {"w_old": w} if self.direction == "own_last_active" else {}
        return {**super().initial(w), **own}

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        """The inner terms and the direction of ascent."""
        terms = super().start(w, server_payload, client_state)
        if self.direction == "momentum":
            return {**terms, "ascent": server_payload["v"]}
        w_old = client_state["w_old"] if self.direction == "own_last_active" else server_payload["w_old"]
        return {**terms, "ascent": w_old - w}

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """The inner correction's, and the received vector to remember."""
        client_state, payload = super().finish(outcome, server_payload, client_state)
        return ({**client_state, "w_old": outcome.w} if self.direction == "own_last_active" else client_state), payload
