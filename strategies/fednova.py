"""FedNova's server.

Legend: `w, delta: (P,)`; `tau` effective number of local steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, State, Wrapping


@dataclass(frozen=True, kw_only=True)
class FedNova(Wrapping):
    """The mean of the clients' normalized deltas, times the mean number of local steps; the inner rule moves the global vector by it."""

    source = "Wang et al., 2020, arXiv:2007.07481, Eq. 9. Clients need correction `normalized`."
    momentum: Annotated[float, Field(ge=0, lt=1)] = hyperparameter(
        0.0, "Decay of a running sum of pseudo-gradients, as in the authors' code: in units of the local learning rate of their round."
    )

    @property
    def expects(self) -> tuple[str, ...]:
        """The clients' numbers of steps; their deltas come divided by them."""
        return (*super().expects, "metrics.tau")

    def init_state(self, w: Tensor) -> State:
        """No momentum yet."""
        return {**super().init_state(w), **({"v": torch.zeros_like(w)} if self.momentum else {})}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        delta = aggregate.metrics["tau"] * aggregate.delta
        if not self.momentum:
            return super().server_step(w, state, replace(aggregate, delta=delta))
        v = self.momentum * state["v"] - delta / aggregate.lr
        w, state = super().server_step(w, state, replace(aggregate, delta=-aggregate.lr * v))
        return w, {**state, "v": v}
