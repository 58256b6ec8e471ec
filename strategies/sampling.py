"""Who takes part: the cohort of a round, as client numbers in ascending order, from the seed and the round alone.

A sampler is `(round, clients, cohort, rng, *, hyperparameters) -> client numbers`: the round from 1, the population, how many clients
are asked for, and the round's generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from fedsam.config import ConfigError
from fedsam.documentation import documented
from fedsam.registry import FunctionContract, Registry
from fedsam.seeds import stream

Sampler = Callable[[int], tuple[int, ...]]


def fixed(round: int, clients: int, cohort: int, rng: np.random.Generator) -> Sequence[int]:
    """So many clients, without replacement.

    >>> sorted(fixed(3, 4, 4, np.random.default_rng(0)))
    [0, 1, 2, 3]
    """
    return tuple(rng.choice(clients, size=cohort, replace=False).tolist())


@documented(
    source="FL-Simulator.",
    probability="Of each client; unset: so that the cohort has the size that is asked for in the mean.",
)
def independent(
    round: int,
    clients: int,
    cohort: int,
    rng: np.random.Generator,
    *,
    probability: Annotated[float, Field(gt=0, le=1)] | None = None,
) -> Sequence[int]:
    """Each client with the same probability, drawn again if that leaves none."""
    while True:
        chosen = np.flatnonzero(rng.random(clients) < (cohort / clients if probability is None else probability))
        if len(chosen):
            return tuple(chosen.tolist())


SAMPLERS = Registry[Callable[..., Sequence[int]]](
    "samplers", FunctionContract(("round", "clients", "cohort", "rng")), {"fixed": fixed, "independent": independent}
)


def drawn(round: int, *, draw: Callable[..., Sequence[int]], clients: int, cohort: int, seed: int) -> tuple[int, ...]:
    """The clients that a sampler draws for the round, ascending.

    Raises:
        ConfigError: It gives none, one twice, or one that does not exist.
    """
    chosen = sorted(int(client) for client in draw(round, clients, cohort, stream(seed, "cohort", round)))
    if not chosen or len(set(chosen)) < len(chosen) or chosen[0] < 0 or chosen[-1] >= clients:
        raise ConfigError(f"server.sampling: the cohort of round {round} is {chosen}: must be different clients from 0 to {clients - 1}")
    return tuple(chosen)


def listed(round: int, *, cohorts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The clients listed for the round.

    >>> listed(2, cohorts=[[0, 1], [2, 0]])
    (0, 2)
    """
    return tuple(sorted(cohorts[round - 1]))
