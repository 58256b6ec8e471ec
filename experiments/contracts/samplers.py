"""What a sampler promises: who takes part in a round."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.contracts.actors import ONE_MODEL
from experiments.contracts.base import Check, CheckedComponent, expect, expect_deterministic, first_few

CLIENTS, COHORT, ROUNDS = 10, 3, 20


def cohorts(component: CheckedComponent) -> list[Any]:
    """Who takes part in each round."""
    sample = component.make()
    return [sample(round, CLIENTS, COHORT, np.random.default_rng(round)) for round in range(1, ROUNDS + 1)]


def cohorts_are_clients(component: CheckedComponent) -> None:
    """Different whole numbers from 0 to the population - 1, at least one."""
    for round, cohort in enumerate(cohorts(component), start=1):
        members = list(cohort)
        wanted = f"clients from 0 to {CLIENTS - 1} in round {round}"
        expect(bool(members), wanted, "nobody")
        expect(all(isinstance(member, int | np.integer) for member in members), f"whole numbers of {wanted}", first_few(members))
        expect(all(0 <= member < CLIENTS for member in members), wanted, first_few(members))
        expect(len(set(members)) == len(members), f"different {wanted}", first_few(members))


def same_seed_same_cohort(component: CheckedComponent) -> None:
    """It draws from its generator alone."""
    expect_deterministic(lambda: [list(cohort) for cohort in cohorts(component)], "drawing cohorts with one seed")


def any_population_works(component: CheckedComponent) -> None:
    """Everybody, and the only client there is."""
    for clients, cohort in ((1, 1), (4, 4)):
        members = list(component.make()(1, clients, cohort, np.random.default_rng(0)))
        holds = bool(members) and all(0 <= member < clients for member in members)
        expect(holds, f"some of {clients} clients, {cohort} being asked for", first_few(members) or "nobody")


CHECKS = (
    Check("a cohort is different clients, at least one", cohorts_are_clients),
    Check("it works for one client, and for all", any_population_works),
    Check("the same seed gives the same result", same_seed_same_cohort),
    ONE_MODEL,
)
