"""The leaderboard: final accuracies and measures with their intervals over seeds, and costs, computed from rows alone.

Runs that differ only in their seed form one entry. Its accuracy is the mean over seeds of the mean of each run's last evaluations, with
the 95 % interval of Student's t; one seed gives no interval. An entry counts finished runs if it has any, and each seed once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.analysis.cost import run_cost
from experiments.analysis.labels import labels
from experiments.analysis.statistics import Estimate, interquartile_mean
from fedsam.results.rows import Row, Run, cumulative
from fedsam.results.store import Results

EntryKey = tuple[str, int]  # label and client count

# These are averaged over the last evaluations; of any other measure the last value counts.
AVERAGED_MEASURES = (
    *("test_accuracy", "test_loss", "calibration_error", "client_accuracy", "client_loss"),
    *(f"client_accuracy_{name}" for name in ("mean", "std", "worst10")),
)


@dataclass(frozen=True)
class LeaderboardEntry:
    """A method with a client count, over its seeds.

    Attributes:
        label: The method.
        clients: The client count.
        seeds: Of the runs that count.
        status: `finished`, or the status and progress of its most advanced run.
        evaluations_averaged: Number of evaluations behind the final figures of each run; 0 when there was none.
        final_accuracies: Final test accuracy of each seed, a fraction.
        measures: Final value of each measure that all its runs have, with `gap` (accuracy on the clients' examples minus test accuracy,
            after the same round) and `loss_gap` (test loss minus loss on the clients' examples).
        rounds: Fewest rounds of its runs.
        costs: Totals of a run, mean over seeds, by the names of `run_cost`.
        excluded_runs: Number of runs that do not count: unfinished, or a repetition of a seed.
    """

    label: str
    clients: int
    seeds: tuple[int, ...]
    status: str
    evaluations_averaged: int
    final_accuracies: Mapping[int, float]
    measures: Mapping[str, Estimate]
    rounds: int
    costs: Mapping[str, float]
    excluded_runs: int

    @property
    def key(self) -> EntryKey:
        """Its label and client count."""
        return self.label, self.clients

    @property
    def accuracy(self) -> Estimate | None:
        """Final test accuracy, a fraction."""
        return self.measures.get("test_accuracy")

    @property
    def is_ranked(self) -> bool:
        """Whether its accuracy may be compared with that of others."""
        return self.status == "finished" and self.accuracy is not None and math.isfinite(self.accuracy.mean)

    @property
    def interquartile_mean(self) -> float | None:
        """Interquartile mean of the final accuracies; None for few seeds."""
        return interquartile_mean(list(self.final_accuracies.values()))


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in their seed.

    Attributes:
        label: The method.
        clients: The client count.
        runs: All of them.
        rows: By run id, the rows with cumulative costs of the runs that count.
    """

    label: str
    clients: int
    runs: tuple[Run, ...]
    rows: Mapping[str, Sequence[Row]]

    @property
    def key(self) -> EntryKey:
        """Its label and client count."""
        return self.label, self.clients

    @property
    def counted_runs(self) -> list[Run]:
        """The runs behind its figures, by seed."""
        return sorted((run for run in self.runs if run.id in self.rows), key=lambda run: run.seed)

    def evaluated_rows(self) -> list[list[Row]]:
        """For each counted run the rows that have a test accuracy."""
        return [[row for row in self.rows[run.id] if "test_accuracy" in row.measures] for run in self.counted_runs]


def seed_groups(results: Results, runs: Sequence[Run]) -> list[SeedGroup]:
    """Runs grouped by method and client count: fewer clients first, methods in the order of their first run."""
    names, members = labels(runs), defaultdict(list)
    for run in runs:
        members[run.clients, names[run.id]].append(run)
    order = list(dict.fromkeys(names[run.id] for run in runs))
    return [
        SeedGroup(label, clients, tuple(group), {run.id: cumulative(results.rounds(run.id)) for run in _counted(group)})
        for (clients, label), group in sorted(members.items(), key=lambda item: (item[0][0], order.index(item[0][1])))
    ]


def _counted(runs: Sequence[Run]) -> list[Run]:
    """Each seed once, its newest run; unfinished runs only where no run has finished."""
    finished = [run for run in runs if run.status == "finished"]
    return list({run.seed: run for run in sorted(finished or runs, key=lambda run: run.started)}.values())


def summarize(groups: Sequence[SeedGroup]) -> list[LeaderboardEntry]:
    """The leaderboard: fewer clients first, then the better accuracy first, then the entries that are not ranked."""
    entries = [_entry(group) for group in groups]
    return sorted(entries, key=_order)


def _order(entry: LeaderboardEntry) -> tuple[int, bool, float]:
    return entry.clients, not entry.is_ranked, -entry.accuracy.mean if entry.is_ranked and entry.accuracy else 0.0


def _entry(group: SeedGroup) -> LeaderboardEntry:
    runs, evaluated = group.counted_runs, group.evaluated_rows()
    averaged = min(group.runs[0].config["measure"]["last"], *(len(rows) for rows in evaluated))
    rounds = [len(group.rows[run.id]) for run in runs]
    finals = [_final_measures(group.rows[run.id], averaged) for run in runs]
    costs = [run_cost(run, group.rows[run.id][-1]) for run in runs if group.rows[run.id]]
    return LeaderboardEntry(
        label=group.label,
        clients=group.clients,
        seeds=tuple(run.seed for run in runs),
        status=_status(runs, rounds),
        evaluations_averaged=averaged,
        final_accuracies={run.seed: final["test_accuracy"] for run, final in zip(runs, finals, strict=True) if averaged},
        measures={name: Estimate.of([final[name] for final in finals]) for name in _common_names(finals)},
        rounds=min(rounds),
        costs={name: float(np.mean([cost[name] for cost in costs])) for name in _common_names(costs)},
        excluded_runs=len(group.runs) - len(runs),
    )


def _status(runs: Sequence[Run], rounds: Sequence[int]) -> str:
    statuses = " or ".join(dict.fromkeys(run.status for run in runs))
    if statuses == "finished":
        return statuses
    done, furthest = max(zip(rounds, runs, strict=True), key=lambda item: item[0])
    return f"{statuses} after round {done} of {furthest.config['rounds']}"


def _common_names(tables: Sequence[Mapping[str, float]]) -> list[str]:
    """The names that all tables have."""
    return [name for name in tables[0] if all(name in table for table in tables)] if tables else []


def _final_measures(rows: Sequence[Row], averaged: int) -> dict[str, float]:
    """Measures of a run at its end, those of `AVERAGED_MEASURES` over its last evaluations, `averaged` in number."""
    final: dict[str, float] = {}
    for row in rows:
        final |= {**row.measures, **_gaps(row.measures)}
    tail = [row.measures for row in rows if "test_accuracy" in row.measures][-averaged:] if averaged else []
    for name in AVERAGED_MEASURES:
        values = [measures[name] for measures in tail if name in measures]
        if values:
            final[name] = float(np.mean(values))
        else:
            final.pop(name, None)
    return final


def _gaps(measures: Mapping[str, float]) -> dict[str, float]:
    if not measures.keys() >= {"union_accuracy", "union_loss", "test_accuracy", "test_loss"}:
        return {}
    return {
        "gap": measures["union_accuracy"] - measures["test_accuracy"],
        "loss_gap": measures["test_loss"] - measures["union_loss"],
    }
