"""FedSMOO's server.

Legend: `w, h, s, mu: (P,)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, State
from strategies.feddyn import FedDyn


@dataclass(frozen=True, kw_only=True)
class FedSMOO(FedDyn):
    """FedDyn's server, which also sends a perturbation s for the clients' to agree with."""

    source = (
        "Sun et al., 2023, arXiv:2305.11584, Algorithm 1. Three rules for s are in use: the mean of the cohort's mu (`mu_active`, "
        "FL-Simulator), the mean of mu less the last perturbation (`mu_minus_last_active`, two independent ports), and minus the "
        "population's mean of mu (`minus_mu_all`, the authors' earlier release), which points the other way. Clients need correction "
        "`fedsmoo`."
    )
    rho: NonNegative = hyperparameter(0.1, "Length of s.")
    variant: Literal["mu_active", "mu_minus_last_active", "minus_mu_all"] = hyperparameter(
        "mu_active", "Rule for s; the correction's `upload` must match: `mu`, `mu_minus_last`, `mu_change`."
    )
    norm_eps: NonNegative = hyperparameter(1e-7, "Added to the norm in the denominator; the authors' earlier release has 1e-8.")

    @property
    def expects(self) -> tuple[str, ...]:
        """What `variant` needs."""
        wanted = {"mu_active": "mean.mu", "mu_minus_last_active": "mean.mu_minus_last", "minus_mu_all": "population.mu_change"}
        return (*super().expects, wanted[self.variant])

    def init_state(self, w: Tensor) -> State:
        """A zero perturbation, and the mean of mu where `variant` needs it."""
        mu = {"mu": torch.zeros_like(w)} if self.variant == "minus_mu_all" else {}
        return {**super().init_state(w), "s": torch.zeros_like(w), **mu}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The perturbation too."""
        return {"w": w, "s": state["s"]}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        w, state = super().server_step(w, state, aggregate)
        if self.variant == "minus_mu_all":
            mu = state["mu"] + aggregate.population["mu_change"]
            return w, {**state, "mu": mu, "s": self._scaled(-mu)}
        return w, {**state, "s": self._scaled(aggregate.mean["mu" if self.variant == "mu_active" else "mu_minus_last"])}

    def _scaled(self, direction: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(direction)
        return self.rho * direction / (length + self.norm_eps)
