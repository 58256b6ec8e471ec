"""Who takes part: the cohort of a round, as client numbers in ascending order, from the seed and the round alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedsam.seeds import stream

Sampler = Callable[[int], tuple[int, ...]]


def fixed(round: int, *, clients: int, cohort: int, seed: int) -> tuple[int, ...]:
    """So many clients, without replacement.

    >>> fixed(3, clients=4, cohort=4, seed=0)
    (0, 1, 2, 3)
    """
    chosen = stream(seed, "cohort", round).choice(clients, size=cohort, replace=False)
    return tuple(int(client) for client in np.sort(chosen))


def independent(round: int, *, clients: int, probability: float, seed: int) -> tuple[int, ...]:
    """Each client with the same probability, drawn again if that leaves none.

    Source: FL-Simulator.
    """
    rng = stream(seed, "cohort", round)
    while True:
        chosen = np.flatnonzero(rng.random(clients) < probability)
        if len(chosen):
            return tuple(int(client) for client in chosen)


def listed(round: int, *, cohorts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The clients listed for the round.

    >>> listed(2, cohorts=[[0, 1], [2, 0]])
    (0, 2)
    """
    return tuple(sorted(cohorts[round - 1]))
