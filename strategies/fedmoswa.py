"""FedMoSWA's server.

Legend: `w, c: (P,)`; `u: (P,)` the mean difference of the clients' control variates to c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsam.config import Fraction
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, State, Wrapping
from strategies.scaffold import Scaffold


@dataclass(frozen=True, kw_only=True)
class FedMoSWA(Scaffold):
    """Keeps a moving average of the cohorts' control variates and sends it along; the inner rule moves the global vector."""

    source = (
        "Liu et al., 2025, arXiv:2507.20016 (FedMoSWA), whose m is c: c <- (1 - gamma) c + gamma mean(c_i). Divides by the cohort, unlike "
        "SCAFFOLD. Clients need correction `fedmoswa`."
    )
    gamma: Fraction = hyperparameter(0.2, "Weight of the cohort's control variates, the paper's momentum.")
    first_round: Literal["average", "replace"] = hyperparameter(
        "average", "Whether the first cohort counts like every other (paper), or its mean replaces the zero start (releases)."
    )

    @property
    def expects(self) -> tuple[str, ...]:
        """The mean of c_i - c."""
        return (*self.rule.expects, "mean.c")

    @property
    def mirrors(self) -> tuple[str, ...]:
        """Nothing of its own: c is no mean over the population."""
        return self.rule.mirrors

    def init_state(self, w: Tensor) -> State:
        """A zero control variate that nothing is averaged in."""
        return {**super().init_state(w), "cohorts": 0}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        w, state = Wrapping.server_step(self, w, state, aggregate)
        gamma = 1.0 if self.first_round == "replace" and not state["cohorts"] else self.gamma
        return w, {**state, "c": state["c"] + gamma * aggregate.mean["c"], "cohorts": state["cohorts"] + 1}
