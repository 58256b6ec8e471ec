"""Factors over the rounds, of the local learning rate or the perturbation radius, and of the learning rate over the steps of a round.

A schedule that depends on the number of rounds says so in an attribute `uses_rounds`: True, or a function of its hyperparameters. No
budget may end a run with such a schedule; one that does not say so fails in such a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NoReturn, TypeVar, cast

from pydantic import Field

from fedsam import registry
from fedsam.config import Component, ConfigError, Experiment
from fedsam.documentation import documented
from fedsam.registry import FunctionContract, Registry

Schedule = TypeVar("Schedule", bound=Callable[..., float])


def _uses_rounds(when: Callable[..., bool]) -> Callable[[Schedule], Schedule]:
    """Declare for which of its hyperparameters a schedule depends on the number of rounds."""

    def declared(schedule: Schedule) -> Schedule:
        vars(schedule).update(uses_rounds=when)
        return schedule

    return declared


@documented(source="McMahan et al., 2017, arXiv:1602.05629.")
def constant(round: int, rounds: int) -> float:
    """The same rate in every round.

    >>> constant(7, 30)
    1.0
    """
    return 1.0


@documented(source="the schedule of FL-Simulator, FedDyn (arXiv:2111.04263) and their followers.")
def exponential(round: int, rounds: int, *, decay: Annotated[float, Field(gt=0, le=1)] = 0.998) -> float:
    """decay ** (round - 1): the first round has the full rate.

    >>> exponential(3, 30, decay=0.5)
    0.25
    """
    return float(decay ** (round - 1))


@documented(source="Loshchilov and Hutter, 2017, arXiv:1608.03983, Eq. 5, one cycle over the rounds.")
@_uses_rounds(lambda floor: True)
def cosine(round: int, rounds: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.0) -> float:
    """Half a cosine from the full rate in round 1 towards `floor`, reached one round after the last.

    >>> cosine(1, 30)
    1.0
    """
    return floor + (1 - floor) * (1 + math.cos(math.pi * (round - 1) / rounds)) / 2


@documented(
    source="warm-up of Goyal et al., 2017, arXiv:1706.02677, times the cosine of arXiv:1608.03983, as in MSAM's code (arXiv:2401.12033).",
    warmup="Rounds until the full rate would be reached.",
)
@_uses_rounds(lambda warmup: True)
def warmup_cosine(round: int, rounds: int, *, warmup: Annotated[int, Field(ge=1)] = 1) -> float:
    """A straight line up from 0 over the first rounds, times half a cosine down to 0 over all of them, both in the middle of the round.

    >>> [f"{warmup_cosine(round, 4, warmup=2):.3f}" for round in (1, 2, 3, 4)]
    ['0.240', '0.519', '0.309', '0.038']
    """
    passed = round - 0.5
    return min(1.0, passed / warmup) * (1 + math.cos(math.pi * passed / rounds)) / 2


@documented(start="Factor of the first round.", end="Factor that a round after the last would have.")
@_uses_rounds(lambda start, end: start != end)
def linear(
    round: int,
    rounds: int,
    *,
    start: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
    end: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
) -> float:
    """A straight line from `start` in round 1 towards `end`, reached one round after the last.

    >>> [linear(round, 4) for round in (1, 2, 4)]
    [1.0, 0.75, 0.25]
    """
    return start + (end - start) * (round - 1) / rounds


@documented(
    source=(
        "Caldarola et al., 2022, arXiv:2203.11834, as in the authors' code; the rate of server rule `swa`. There the position in the "
        "cycle is counted from the first round of the run, and a cycle of one round changes nothing."
    ),
    start="Rounds before averaging starts: a whole number, or with a point a fraction of all rounds.",
    cycle="Rounds of a cycle.",
)
@_uses_rounds(lambda start, cycle, floor: isinstance(start, float) and cycle > 1)
def cyclic(
    round: int,
    rounds: int,
    *,
    start: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 0.75,
    cycle: Annotated[int, Field(ge=1)] = 10,
    floor: Annotated[float, Field(ge=0, le=1)] = 0.01,
) -> float:
    """The full rate until averaging starts, then again and again a straight line down to `floor`, reached at the end of each cycle.

    >>> [cyclic(round, 8, start=4, cycle=2, floor=0.5) for round in range(3, 8)]
    [1.0, 1.0, 0.75, 0.5, 0.75]
    """
    passed = round - 1
    if cycle == 1 or passed < (start if isinstance(start, int) else int(start * rounds)):
        return 1.0
    share = (passed % cycle + 1) / cycle
    return (1 - share) + share * floor


@dataclass(frozen=True)
class LocalRate:
    """The learning rate over the local steps of one round, as factors of the round's rate: a straight line from 1 towards `floor`.

    Source: Liu et al., 2025, arXiv:2507.20016 (FedSWA), in the authors' code. The last of K steps has floor + (1 - floor) / K.

    Attributes:
        floor: What the step after the last one would have; 1 is a constant rate.
    """

    floor: float = 1.0

    def factor(self, step: int, steps: int) -> float:
        """Of a step, counted from 0, of `steps`.

        >>> [LocalRate(0.5).factor(step, 2) for step in range(2)]
        [1.0, 0.75]
        """
        return 1 - (1 - self.floor) * step / steps  # exactly 1 where the rate is constant

    def reach(self, steps: float) -> float:
        """The sum of the factors of `steps` steps; of a mean number of steps, the mean of the sums.

        >>> LocalRate(0.5).reach(2), LocalRate().reach(2)
        (1.75, 2.0)
        """
        return (steps * (1 + self.floor) + (1 - self.floor)) / 2


CONSTANT_RATE = LocalRate()

SCHEDULES = Registry[Callable[..., float]](
    "schedules",
    FunctionContract(("round", "rounds")),
    {
        "constant": constant,
        "exponential": exponential,
        "linear": linear,
        "cosine": cosine,
        "warmup_cosine": warmup_cosine,
        "cyclic": cyclic,
    },
)


def build(component: Component, where: str = "client.schedule") -> Callable[..., float]:
    """The schedule that the key `where` names. Raises `ConfigError` for an unknown name or a wrong hyperparameter."""
    schedule: Callable[..., float] = registry.build(SCHEDULES, component, where)
    return schedule


def uses_rounds(schedule: Callable[..., float]) -> bool:
    """Whether a schedule, its hyperparameters bound, declares that it depends on the number of rounds.

    >>> [uses_rounds(build(Component(name=name))) for name in ("exponential", "cosine")]
    [False, True]
    """
    function, settings = (schedule.func, schedule.keywords) if isinstance(schedule, partial) else (schedule, {})
    when = getattr(function, "uses_rounds", False)
    return bool(when(**settings) if callable(when) else when)


def known_rounds(experiment: Experiment, where: str, component: Component) -> int:
    """The number of rounds for a component of an experiment: where a budget ends the run, an `UnknownRounds`.

    Args:
        where: The component's key in the experiment, for the message.
    """
    return experiment.rounds if experiment.budget is None else cast(int, UnknownRounds(f"{where}: {component.name!r}"))


class UnknownRounds:
    """Stands for the number of rounds in a run that a budget ends: who computes with it gets a `ConfigError`.

    >>> 3 / UnknownRounds("client.schedule: 'mine:ramp'")
    Traceback (most recent call last):
    fedsam.wording.ConfigError: client.schedule: 'mine:ramp' is not allowed with a budget: it depends on the number of rounds, which is \
not known then (it must declare `uses_rounds`)
    """

    def __init__(self, who: str) -> None:
        self._who = who

    def _refuse(self, *others: object) -> NoReturn:
        why = "it depends on the number of rounds, which is not known then (it must declare `uses_rounds`)"
        raise ConfigError(f"{self._who} is not allowed with a budget: {why}")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _refuse
    __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __abs__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __bool__ = __int__ = __float__ = __index__ = __eq__ = __ne__ = _refuse
    __hash__ = None  # type: ignore[assignment]
