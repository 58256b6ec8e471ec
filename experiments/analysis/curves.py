"""Accuracy and loss as functions of cost: curves over seeds, the cost of reaching a target, accuracy at equal cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.analysis.cost import COSTS, EQUAL_COSTS, TARGET_COSTS
from experiments.analysis.leaderboard import EntryKey, SeedGroup
from experiments.analysis.statistics import Estimate
from fedsam.results.final import final_measures
from fedsam.results.rows import Row

# What curves are drawn of; None where a round has no value.
CURVE_MEASURES: Mapping[str, Callable[[Row], float | None]] = {
    "test_accuracy": lambda row: row.measures.get("test_accuracy"),
    "test_loss": lambda row: row.measures.get("test_loss"),
    "train_loss": lambda row: row.train_loss,
}


@dataclass(frozen=True)
class Curve:
    """A measure of one method with one client count after each of R rounds, averaged over seeds.

    Attributes:
        label: The method.
        clients: The client count.
        costs: By the names of `COSTS`: mean over seeds up to each round that all seeds have a value of, (R,).
        values: Of the measure (R,), accuracies as fractions; NaN where a run diverged.
        half_width: Half-width of the 95 % interval over seeds (R,); NaN for one seed.
        diverged: Whether it ends because a run diverged and was stopped.
    """

    label: str
    clients: int
    costs: Mapping[str, NDArray[np.float64]]
    values: NDArray[np.float64]
    half_width: NDArray[np.float64]
    diverged: bool = False


def measure_curves(groups: Sequence[SeedGroup], measure: str = "test_accuracy") -> list[Curve]:
    """The curve of each group that has the measure, a name of `CURVE_MEASURES`, in the order of the groups."""
    return [curve for group in groups if (curve := _curve(group, CURVE_MEASURES[measure])) is not None]


def _curve(group: SeedGroup, read: Callable[[Row], float | None]) -> Curve | None:
    counted = group.counted_runs
    ends = {run.id: group.diverged[run.id] for run in counted if run.status == "diverged"}
    runs = [
        {
            row.round: (row, value if row.round < ends.get(run.id, math.inf) else math.nan)
            for row in group.rows[run.id]
            if (value := read(row)) is not None
        }
        for run in counted
    ]
    rounds = sorted(set.intersection(*(set(rows) for rows in runs)))
    if not rounds:
        return None
    points = [Estimate.of([rows[round][1] for rows in runs]) for round in rounds]
    costs = {name: [[cost.from_row(rows[round][0]) for rows in runs] for round in rounds] for name, cost in COSTS.items()}
    return Curve(
        label=group.label,
        clients=group.clients,
        costs={name: np.array(values, dtype=float).mean(axis=1) for name, values in costs.items() if not any(None in v for v in values)},
        values=np.array([point.mean for point in points]),
        half_width=np.array([math.nan if point.half_width is None else point.half_width for point in points]),
        diverged=bool(ends),
    )


@dataclass(frozen=True)
class TimeToTarget:
    """The cost at which the test accuracy of a method first reached a target.

    Attributes:
        label: The method.
        clients: The client count.
        target: An accuracy, a fraction.
        reached: Number of runs, out of `seeds`, that reached it.
        seeds: Number of runs.
        costs: By the names of `TARGET_COSTS`, over the runs that reached it; empty when none did.
    """

    label: str
    clients: int
    target: float
    reached: int
    seeds: int
    costs: Mapping[str, Estimate]


def time_to_target(group: SeedGroup, target: float) -> TimeToTarget:
    """The cost of the first evaluated round of each run at or above the target; nothing is interpolated."""
    rows = [row for evaluated in group.evaluated_rows() if (row := _first_at(evaluated, target)) is not None]
    values = {name: [COSTS[name].from_row(row) for row in rows] for name in TARGET_COSTS}
    costs = {name: Estimate.of([v for v in each if v is not None]) for name, each in values.items() if each and None not in each}
    return TimeToTarget(group.label, group.clients, target, len(rows), len(group.counted_runs), costs)


def _first_at(rows: Sequence[Row], target: float) -> Row | None:
    return next((row for row in rows if row.measures["test_accuracy"] >= target), None)


@dataclass(frozen=True)
class EqualCost:
    """Test accuracies of all groups where all of a condition have spent the same of one cost.

    Attributes:
        cost: A name of `COSTS`.
        values: The largest value that every run of a condition has reached, by condition.
        accuracies: By label and condition, then by seed: the final accuracy of each run if it ended at that cost; empty where one had no
            evaluation.
    """

    cost: str
    values: Mapping[int, float]
    accuracies: Mapping[EntryKey, Mapping[int, float]]

    @property
    def accuracy(self) -> dict[EntryKey, Estimate | None]:
        """Mean and interval over seeds by label and condition; None where a run had no evaluation."""
        return {key: Estimate.of(list(seeds.values())) if seeds else None for key, seeds in self.accuracies.items()}


def equal_costs(groups: Sequence[SeedGroup]) -> list[EqualCost]:
    """Accuracies at equal values of each of `EQUAL_COSTS` that every run has measured."""
    found = []
    for name in EQUAL_COSTS:
        totals = {group.key: [COSTS[name].from_row(rows[-1]) if rows else None for rows in group.evaluated_rows()] for group in groups}
        spent = [(clients, total) for (_, clients), each in totals.items() for total in each]
        if any(total is None for _, total in spent) or not spent:
            continue
        values = {clients: min(total for other, total in spent if other == clients and total is not None) for clients, _ in spent}
        accuracies = {group.key: _accuracies_within(group, name, values[group.clients]) for group in groups}
        found.append(EqualCost(name, values, accuracies))
    return found


def _accuracies_within(group: SeedGroup, name: str, value: float) -> dict[int, float]:
    """By seed; empty where a run had no evaluation."""
    limit = value * (1 + 1e-9)  # a sum of floats may miss its own value by a rounding error
    runs = [[row for row in rows if (COSTS[name].from_row(row) or 0.0) <= limit] for rows in group.evaluated_rows()]
    last = group.evaluations_averaged(runs)
    seeds = [run.seed for run in group.counted_runs]
    return {seed: final_measures(rows, last)["test_accuracy"] for seed, rows in zip(seeds, runs, strict=True)} if last else {}
