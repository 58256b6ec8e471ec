"""Stochastic weight averaging over rounds.

Legend: `w, swa: (P,)`; `k` vectors in the average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedsam.config import Count
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, State, Wrapping


@dataclass(frozen=True, kw_only=True)
class SWA(Wrapping):
    """Evaluates the mean of late global vectors; clients go on from the inner rule's."""

    source = (
        "Caldarola et al., 2022, arXiv:2203.11834, Algorithm 2, as in the authors' code: the vector at the start is evaluated until "
        "the first average replaces it. The paper's learning rate in that phase is schedule `cyclic`."
    )
    start: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = hyperparameter(
        0.75, "Rounds before averaging starts: a whole number, or with a point a fraction of all rounds."
    )
    cycle: Count = hyperparameter(10, "Rounds from one averaged vector to the next.")

    @property
    def uses_rounds(self) -> bool:
        """Whether `start` is a fraction, or the inner rule uses them."""
        return isinstance(self.start, float) or super().uses_rounds

    def init_state(self, w: Tensor) -> State:
        """Nothing averaged yet."""
        return {**super().init_state(w), "swa": w, "k": 0, "started": False}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        new, following = super().server_step(w, state, aggregate)
        return new, {**following, **self._averaged(w, new, state, aggregate)}

    def evaluated(self, w: Tensor, state: State) -> Tensor:
        """The average, once there is one."""
        return state["swa"] if state["started"] else super().evaluated(w, state)

    def _averaged(self, w: Tensor, new: Tensor, state: State, aggregate: Aggregate) -> Mapping[str, object]:
        """The average after a round that led from `w` to `new`."""
        start = self.start if isinstance(self.start, int) else int(self.start * aggregate.rounds)
        since = aggregate.round - 1 - start
        if since < 0:
            return {}
        if since == 0:
            return {"swa": w, "started": True}
        if since % self.cycle:
            return {}
        k = state["k"]
        return {"swa": (state["swa"] * k + new) / (k + 1), "k": k + 1}
