"""The local learning rate over the rounds: factors of the optimizer's `lr`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from fedsam import registry
from fedsam.config import Component
from fedsam.registry import FunctionContract, Registry


def constant(round: int, rounds: int) -> float:
    """The same rate in every round.

    Source: McMahan et al., 2017, arXiv:1602.05629.

    >>> constant(7, 30)
    1.0
    """
    return 1.0


def exponential(round: int, rounds: int, *, decay: Annotated[float, Field(gt=0, le=1)] = 0.998) -> float:
    """decay ** (round - 1): the first round has the full rate.

    Source: the schedule of FL-Simulator, FedDyn (arXiv:2111.04263) and their followers.

    >>> exponential(3, 30, decay=0.5)
    0.25
    """
    return float(decay ** (round - 1))


def cosine(round: int, rounds: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.0) -> float:
    """Half a cosine from the full rate in round 1 towards `floor`, reached one round after the last.

    Source: Loshchilov and Hutter, 2017, arXiv:1608.03983, Eq. 5, one cycle over the rounds.

    >>> cosine(1, 30)
    1.0
    """
    return floor + (1 - floor) * (1 + math.cos(math.pi * (round - 1) / rounds)) / 2


def cyclic(
    round: int,
    rounds: int,
    *,
    start: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 0.75,
    cycle: Annotated[int, Field(ge=1)] = 10,
    floor: Annotated[float, Field(ge=0, le=1)] = 0.01,
) -> float:
    """The full rate until averaging starts, then again and again a straight line down to `floor`, reached at the end of each cycle.

    Source: Caldarola et al., 2022, arXiv:2203.11834, as in the authors' code; the rate of server rule `swa`. There the position in the
    cycle is counted from the first round of the run, and a cycle of one round changes nothing.

    Args:
        start: Rounds before averaging starts: a whole number, or with a point a fraction of all rounds.
        cycle: Rounds of a cycle.

    >>> [cyclic(round, 8, start=4, cycle=2, floor=0.5) for round in range(3, 8)]
    [1.0, 1.0, 0.75, 0.5, 0.75]
    """
    passed = round - 1
    if cycle == 1 or passed < (start if isinstance(start, int) else int(start * rounds)):
        return 1.0
    share = (passed % cycle + 1) / cycle
    return (1 - share) + share * floor


SCHEDULES = Registry[Callable[..., float]](
    "schedules",
    FunctionContract(("round", "rounds")),
    {"constant": constant, "exponential": exponential, "cosine": cosine, "cyclic": cyclic},
)


def build(component: Component) -> Callable[..., float]:
    """The schedule that `client.schedule` names. Raises `ConfigError` for an unknown name or a wrong hyperparameter."""
    schedule: Callable[..., float] = registry.build(SCHEDULES, component, "client.schedule")
    return schedule
