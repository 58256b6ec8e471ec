"""FedMoSWA's control variates, on the client.

Legend: `c, c_i: (P,)` the server's and the client's control variate; `eta` learning rate of the first of `K` local steps; `r` rate floor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from clients.corrections.base import LocalOutcome, Payload, Vectors
from clients.corrections.control_variate import ControlVariate
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class MovingVariate(ControlVariate):
    """SCAFFOLD's control variate on the client; the server is told how far it is from the server's, not how much it changed."""

    source = (
        "Liu et al., 2025, arXiv:2507.20016 (FedMoSWA), where c is called m; the clip bounds the loss gradient alone. The releases keep "
        "c_i in whichever Ray worker trains the client, which is not reproduced. Needs server rule `fedmoswa`."
    )
    sends = ("mean.c",)
    variate_rate: Literal["sum", "mean"] = hyperparameter(
        "sum", "What makes the delta a gradient: the sum of the learning rates (paper), or K eta (1 + r) / 2, which is less (release)."
    )

    def reach(self, outcome: LocalOutcome) -> float:
        if self.variate_rate == "sum":
            return super().reach(outcome)
        return outcome.optimizer.lr * outcome.steps * (1 + outcome.rate.floor) / 2

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """The new c_i, and its difference to the c of the round's start."""
        client_state, payload = super().finish(outcome, server_payload, client_state)
        return client_state, replace(payload, population={}, mean={"c": client_state["c"] - server_payload["c"]})
