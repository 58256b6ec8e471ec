"""FedWMSAM's server.

Legend: `w: (P,)`; `alpha` weight of the clients' gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedsam.config import Component, ConfigError, Fraction, Named
from fedsam.documentation import hyperparameter
from strategies.base import Aggregate, State, Wrapping

INNER = Component.model_validate({"name": "fedcm", "inner": {"name": "scaffold"}})
Weight = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class FedWMSAM(Wrapping):
    """Adapts the weight of the clients' gradients beside their momentum, and sends it along; the inner rules keep both and move w."""

    source = (
        "Li et al., 2025, arXiv:2511.22080 (FedWMSAM): c as in SCAFFOLD, m as in FedCM, and w moves with the mean delta, as the released "
        "code has them and the printed formulas have not. The weight falls where clients go down the momentum. Clients need correction "
        "`fedwmsam`."
    )
    inner: Named = hyperparameter(INNER, "The rules that keep momentum m and control variate c, and move w.")
    alpha: Weight = hyperparameter(0.1, "Weight in the first round, < 1.")
    alpha_rate: Fraction = hyperparameter(0.01, "Weight of a round in the running mean that alpha is.")
    alpha_min: Weight = hyperparameter(0.1, "Least that a round counts as.")
    alpha_max: Weight = hyperparameter(0.9, "Most that a round counts as, < 1.")

    def __post_init__(self) -> None:
        if self.alpha_min > self.alpha_max:
            raise ConfigError(f"alpha_min: {self.alpha_min} is not allowed: must be <= alpha_max, {self.alpha_max}")

    @property
    def expects(self) -> tuple[str, ...]:
        """1 + cos of the clients' deltas and the momentum."""
        return (*super().expects, "metrics.disagreement")

    def init_state(self, w: Tensor) -> State:
        """The first weight."""
        return {**super().init_state(w), "alpha": self.alpha}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The weight too."""
        return {**super().broadcast(w, state), "alpha": w.new_full((1,), state["alpha"])}

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        w, state = super().server_step(w, state, aggregate)
        score = min(self.alpha_max, max(self.alpha_min, aggregate.metrics["disagreement"]))
        return w, {**state, "alpha": (1 - self.alpha_rate) * state["alpha"] + self.alpha_rate * score}
