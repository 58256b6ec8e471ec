"""FedGloSS's server.

Legend: `w, delta, g, h: (P,)`; `g` the last pseudo-gradient, `h` the running dual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, ServerRule, State


@dataclass(frozen=True, kw_only=True)
class FedGloSS(ServerRule):
    """Sharpness-aware on the server: clients start from the global vector perturbed along the last pseudo-gradient."""

    source = (
        "Caldarola et al., 2024, arXiv:2412.03752, Algorithm 1, as in the authors' code; h = -beta sigma. Clients need correction "
        "`dual` with lam = 1 / beta, and optimizer `warm_sam`."
    )
    mirrors = ("h",)
    expects = ("population.delta",)
    rho: NonNegative = hyperparameter(0.15, "Radius of the server's perturbation, in units of the parameters' L2 norm.")
    warmup_rounds: Annotated[int, Field(ge=0)] = hyperparameter(0, "Rounds over which the radius grows; 0: none.")
    warmup_start: NonNegative = hyperparameter(0.001, "Radius of the first round, if there is a warm-up.")
    warmup_plateau: NonNegative | None = hyperparameter(
        None,
        "Radius of all the other rounds of the warm-up, in place of linear growth; the released code has (local rho) + (rho - "
        "warmup_start) / warmup_rounds by mistake.",
    )
    dual_divisor: Literal["population_times_cohort", "population"] = hyperparameter(
        "population_times_cohort",
        "The dual moves by the deltas' sum over population x cohort (released code) or over the population (FedDyn).",
    )

    def radius(self, round: int) -> float:
        """The perturbation radius of a round, from 1."""
        passed = round - 1
        if passed > self.warmup_rounds or not self.warmup_rounds:
            return self.rho
        if passed and self.warmup_plateau is not None:
            return self.warmup_plateau
        return self.warmup_start + (self.rho - self.warmup_start) * passed / self.warmup_rounds

    def init_state(self, w: Tensor) -> State:
        """Nothing to perturb along yet."""
        return {"g": torch.zeros_like(w), "h": torch.zeros_like(w), "round": 0}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The perturbed vector, in place of w."""
        # The smallest number leaves every norm but 0 as it is.
        return {"w": w + self.radius(state["round"] + 1) * state["g"] / (state["g"].norm() + torch.finfo(w.dtype).tiny)}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        """The unperturbed vector moves."""
        share = aggregate.cohort if self.dual_divisor == "population_times_cohort" else 1
        h = state["h"] + aggregate.population["delta"] / share
        return w + aggregate.delta + h, {"g": -aggregate.delta, "h": h, "round": aggregate.round}
