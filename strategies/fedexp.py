"""FedExP's server.

Legend: `w, delta: (P,)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, ServerRule, State


@dataclass(frozen=True, kw_only=True)
class FedExP(ServerRule):
    """Extrapolates: the less the clients' deltas agree, the further the server goes along their mean."""

    source = (
        "Jhunjhunwala et al., 2023, arXiv:2301.09604, Algorithm 1 with Eq. 7, as in the authors' code, which multiplies epsilon by the "
        "size of the cohort. The mean of the last two global vectors is evaluated."
    )
    epsilon: NonNegative = hyperparameter(1e-3, "Added to the squared norm of the mean delta, times the size of the cohort.")
    epsilon_decay: Annotated[float, Field(gt=0, le=1)] = hyperparameter(
        0.998, "Its square multiplies epsilon after every round; the decay of the local learning rate."
    )

    def init_state(self, w: Tensor) -> State:
        """The vector itself, to evaluate before the first round."""
        return {"previous": w, "lr": 1.0}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        epsilon = aggregate.cohort * self.epsilon * self.epsilon_decay ** (2 * (aggregate.round - 1))
        lr = max(1.0, 0.5 * aggregate.squared_norm / (float(aggregate.delta.double().norm()) ** 2 + epsilon))
        new = w + lr * aggregate.delta
        return new, {"previous": new if aggregate.round == 1 else w, "lr": lr}

    def evaluated(self, w: Tensor, state: State) -> Tensor:
        """The mean of the last two global vectors; after the first round the vector itself."""
        previous: Tensor = state["previous"]
        return (w + previous) / 2
