"""Simulated heterogeneity: clients with different speed and bandwidth, on a simulated clock, and dropouts.

A distribution is `(rng, *, hyperparameters) -> value` with a value above 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from fedsam import registry
from fedsam.config import Component, ConfigError, Experiment, Positive
from fedsam.documentation import documented
from fedsam.plugins import component_errors
from fedsam.registry import FunctionContract, Registry
from fedsam.seeds import stream

Distribution = Callable[[np.random.Generator], float]


@documented(value="Value of each client.")
def constant(rng: np.random.Generator, *, value: Positive) -> float:
    """All clients alike."""
    return value


@documented(
    low="Smallest value.",
    high="Largest value.",
)
def uniform(rng: np.random.Generator, *, low: Positive, high: Positive) -> float:
    """Any value between two, all equally likely."""
    if high < low:
        raise ConfigError(f"high: {high} is not allowed: at least low, {low}")
    return float(rng.uniform(low, high))


@documented(
    median="Value that half of the clients stay below.",
    sigma="Standard deviation of the value's natural logarithm; 0 makes all clients alike.",
)
def lognormal(rng: np.random.Generator, *, median: Positive, sigma: Annotated[float, Field(ge=0, le=10)]) -> float:
    """Half of the clients below the median, half above, and a few far above."""
    return median * math.exp(sigma * rng.standard_normal())


@documented(
    values="Of each kind.",
    weights="How frequent each kind is, in proportion; unset: all equally.",
)
def tiers(rng: np.random.Generator, *, values: tuple[Positive, ...], weights: tuple[Positive, ...] | None = None) -> float:
    """A few kinds of clients."""
    if not values or len(weights or values) != len(values):
        key, given = ("weights", weights) if values else ("values", values)
        raise ConfigError(f"{key}: {given} is not allowed: one number for each kind, and one kind at least")
    shares = np.array(weights or [1.0] * len(values))
    return float(rng.choice(values, p=shares / shares.sum()))


DISTRIBUTIONS = Registry[Callable[..., float]](
    "distributions", FunctionContract(("rng",)), {"constant": constant, "uniform": uniform, "lognormal": lognormal, "tiers": tiers}
)


class ClientLoad(NamedTuple):
    """Operations and bytes of a client in a round."""

    flops: int
    bytes_down: float
    bytes_up: float


@dataclass(frozen=True)
class Heterogeneity:
    """The differences between clients. A draw depends on the seed and the client alone, for dropouts also on the round.

    Attributes:
        seed: Of all draws.
        speed: Distribution of FLOP/s over clients; None: computing takes no time.
        bandwidth: Distribution of bytes/s over clients, the same down and up; None: sending takes no time.
        dropout: Probability from 0 to 1 that a client leaves a round before it trains.
    """

    seed: int
    speed: Distribution | None = None
    bandwidth: Distribution | None = None
    dropout: float = 0.0

    @classmethod
    def of(cls, experiment: Experiment) -> Heterogeneity:
        """The heterogeneity of an experiment. Raises `ConfigError` for a distribution that is unknown or cannot be drawn from."""
        simulate = experiment.simulate
        speed, bandwidth = _distribution(simulate.speed, "simulate.speed"), _distribution(simulate.bandwidth, "simulate.bandwidth")
        return cls(experiment.seed, speed, bandwidth, simulate.dropout)

    def drops_out(self, round: int, client: int) -> bool:
        """Whether the client drops out of the round."""
        return self.dropout > 0 and stream(self.seed, "simulated dropout", round, client).random() < self.dropout

    def client_seconds(self, client: int, load: ClientLoad) -> float:
        """Simulated seconds in which the client receives, trains and sends, one after another."""
        computing = load.flops / self.speed(stream(self.seed, "simulated speed", client)) if self.speed else 0.0
        traffic = load.bytes_down + load.bytes_up
        sending = traffic / self.bandwidth(stream(self.seed, "simulated bandwidth", client)) if self.bandwidth else 0.0
        return computing + sending

    def round_seconds(self, loads: Mapping[int, ClientLoad]) -> float | None:
        """Simulated seconds of a round: those of its slowest client, 0 without clients; None when no time is simulated."""
        if self.speed is None and self.bandwidth is None:
            return None
        return max((self.client_seconds(client, load) for client, load in loads.items()), default=0.0)


def _distribution(part: Component | None, where: str) -> Distribution | None:
    if part is None:
        return None
    draw: Distribution = registry.build(DISTRIBUTIONS, part, where)
    try:
        with component_errors(where, part.name):
            value = draw(np.random.default_rng(0))
            if not value > 0:
                raise ValueError(f"it drew {value}, which is not above 0")
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(where) else f"{where}.{error}") from None
    return draw
