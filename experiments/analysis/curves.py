"""How accuracy grows with what is spent: curves over seeds, what a target took, and accuracy where methods have spent the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.analysis.cost import COSTS, EQUAL, TARGET
from experiments.analysis.leaderboard import Key, SeedGroup
from experiments.analysis.statistics import Estimate
from fedsam.results.rows import Row


@dataclass(frozen=True)
class Series:
    """Test accuracy of one method with one client count, averaged over seeds.

    Attributes:
        spent: By the names of `COSTS`, mean over seeds until each evaluated round that all seeds have, (R,).
        accuracy: Fractions (R,); NaN where a run diverged.
        half_width: Of the 95 % interval over seeds (R,); NaN when there is one seed.
    """

    label: str
    clients: int
    spent: Mapping[str, NDArray[np.float64]]
    accuracy: NDArray[np.float64]
    half_width: NDArray[np.float64]


def series(held: Sequence[SeedGroup]) -> list[Series]:
    """What the curves show, in the order of the groups; groups without an evaluation are left out."""
    return [one for group in held if (one := _series(group)) is not None]


def _series(group: SeedGroup) -> Series | None:
    runs = [{row.round: row for row in rows} for rows in group.evaluated()]
    rounds = sorted(set.intersection(*(set(rows) for rows in runs)))
    if not rounds:
        return None
    points = [Estimate.of([rows[round].measures["test_accuracy"] for rows in runs]) for round in rounds]
    spent = {name: [[cost.of(rows[round]) for rows in runs] for round in rounds] for name, cost in COSTS.items()}
    return Series(
        label=group.label,
        clients=group.clients,
        spent={name: np.array(values, dtype=float).mean(axis=1) for name, values in spent.items() if not any(None in v for v in values)},
        accuracy=np.array([point.mean for point in points]),
        half_width=np.array([math.nan if point.half_width is None else point.half_width for point in points]),
    )


@dataclass(frozen=True)
class TimeToTarget:
    """What a method spent until its test accuracy first reached a target.

    Attributes:
        target: A fraction.
        runs: How many of `seeds` runs reached it.
        spent: By cost, over the runs that did; empty when none did.
    """

    label: str
    clients: int
    target: float
    runs: int
    seeds: int
    spent: Mapping[str, Estimate]


def reached(group: SeedGroup, target: float) -> TimeToTarget:
    """When a group reached the target: the first evaluated round at or above it counts, nothing is interpolated."""
    firsts = [first for rows in group.evaluated() if (first := _first(rows, target)) is not None]
    costs = {name: [COSTS[name].of(row) for row in firsts] for name in TARGET}
    spent = {name: Estimate.of([v for v in values if v is not None]) for name, values in costs.items() if values and None not in values}
    return TimeToTarget(group.label, group.clients, target, len(firsts), len(group.counted), spent)


def _first(rows: Sequence[Row], target: float) -> Row | None:
    return next((row for row in rows if row.measures["test_accuracy"] >= target), None)


@dataclass(frozen=True)
class EqualCost:
    """Test accuracy where all groups have spent at most the same.

    Attributes:
        cost: A name of `COSTS`.
        value: The most of it that every run has spent.
        accuracy: By label and client count, that of each run's last evaluation until then; None where a run had none yet.
    """

    cost: str
    value: float
    accuracy: Mapping[Key, Estimate | None]


def equal(held: Sequence[SeedGroup]) -> list[EqualCost]:
    """Accuracies at equal rounds, gradient evaluations, client time and bytes, and simulated time where there is one."""
    found = []
    for name in EQUAL:
        of = COSTS[name].of
        ends = [of(rows[-1]) if rows else None for group in held for rows in group.evaluated()]
        value = min((end for end in ends if end is not None), default=None)
        if value is not None and None not in ends:
            found.append(EqualCost(name, value, {group.key: _until(group, name, value) for group in held}))
    return found


def _until(group: SeedGroup, name: str, value: float) -> Estimate | None:
    of = COSTS[name].of
    # A sum of floats may miss its own value by a rounding error.
    before = [[row for row in rows if (of(row) or 0.0) <= value * (1 + 1e-9)] for rows in group.evaluated()]
    return Estimate.of([rows[-1].measures["test_accuracy"] for rows in before]) if all(before) else None
