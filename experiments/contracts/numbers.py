"""What schedules and distributions promise: functions that give one number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments.contracts.actors import ONE_MODEL
from experiments.contracts.base import Check, CheckedComponent, expect, expect_deterministic

LENGTHS = (1, 2, 10, 100)  # rounds of a run
DRAWS = 200


def factors(component: CheckedComponent) -> dict[str, Any]:
    """The factor of every round of runs of several lengths."""
    schedule = component.make()
    return {f"round {round} of {rounds}": schedule(round, rounds) for rounds in LENGTHS for round in range(1, rounds + 1)}


def factors_are_numbers(component: CheckedComponent) -> None:
    """Finite, and not negative."""
    for when, factor in factors(component).items():
        is_number = isinstance(factor, int | float) and math.isfinite(factor) and factor >= 0
        expect(is_number, f"a finite number >= 0 for {when}", repr(factor))


def some_factor_is_positive(component: CheckedComponent) -> None:
    """A run learns something."""
    expect(any(factor > 0 for factor in factors(component).values()), "a learning rate above 0 in some round", "0 in all of them")


def same_round_same_factor(component: CheckedComponent) -> None:
    """It keeps nothing between rounds, and draws nothing."""
    expect_deterministic(lambda: factors(component), "the same rounds")


def draws(component: CheckedComponent) -> list[Any]:
    """Many values, each from a generator of its own, as clients have them."""
    draw = component.make()
    return [draw(np.random.default_rng(client)) for client in range(DRAWS)]


def draws_are_positive(component: CheckedComponent) -> None:
    """A speed or bandwidth divides."""
    for value in draws(component):
        is_number = isinstance(value, int | float) and math.isfinite(value) and value > 0
        expect(is_number, "a finite number > 0", repr(value))


def same_seed_same_draw(component: CheckedComponent) -> None:
    """It draws from its generator alone."""
    expect_deterministic(lambda: draws(component), "drawing with one seed")


SCHEDULE_CHECKS = (
    Check("it gives a finite number >= 0 in every round", factors_are_numbers),
    Check("it is above 0 in some round", some_factor_is_positive),
    Check("the same round gives the same factor", same_round_same_factor),
    ONE_MODEL,
)
DISTRIBUTION_CHECKS = (
    Check("it gives a finite number > 0", draws_are_positive),
    Check("the same seed gives the same result", same_seed_same_draw),
    ONE_MODEL,
)
