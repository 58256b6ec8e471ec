"""What a server strategy is: vector algebra from the aggregate of a round to the next global vector.

Legend: `w, delta: (P,)`; `state` maps names to vectors (P,) or plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fedsam.config import Positive

State = Mapping[str, Any]


@dataclass(frozen=True)
class Aggregate:
    """What a cohort sent in one round, combined.

    Attributes:
        delta: Weighted mean of (after - before) (P,); it points where the clients went.
        mean: Weighted means of the other vectors sent, by name.
        population: Sums over the cohort divided by the population, by name.
        metrics: Weighted means of the scalars sent (`steps`, a correction's own).
        round: Round, from 1.
        lr: Local learning rate of this round.
        cohort: Clients whose update was accepted.
        clients: Population.
    """

    delta: Tensor
    mean: Mapping[str, Tensor] = field(default_factory=dict)
    population: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    round: int = 1
    lr: float = 1.0
    cohort: int = 1
    clients: int = 1


@dataclass(frozen=True, kw_only=True)
class ServerRule:
    """A server strategy's mathematics; `CohortStrategy` is the shell that runs it.

    Attributes:
        weights: Weights of the clients in the mean: their numbers of examples, or all equal.
        lr: Server learning rate.
    """

    weights: Literal["examples", "uniform"] = "examples"
    lr: Positive = 1.0

    def init_state(self, w: Tensor) -> State:
        """The server state before the first round."""
        return {}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """What goes down, by name; `w` is the vector that clients start from."""
        return {"w": w}

    def server_step(self, w: Tensor, state: State, sent: Aggregate) -> tuple[Tensor, State]:
        """The next global vector and server state."""
        raise TypeError(f"{type(self).__name__} has no server step")

    def evaluated(self, w: Tensor, state: State) -> Tensor:
        """The vector to evaluate and to keep as the model."""
        return w
