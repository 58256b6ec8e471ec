"""The numbers behind a report: final accuracies and measures, their intervals over seeds, and costs, from rows alone.

Runs that differ only in their seed are one line. Its accuracy is the mean over seeds of the mean of each run's last evaluations, with
the 95 % interval of Student's t; one seed gives no interval. A line counts finished runs if it has any, and each seed once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.analysis.cost import spent
from experiments.analysis.labels import labels
from experiments.analysis.statistics import Estimate, interquartile_mean
from fedsam.results.rows import Row, Run, cumulative
from fedsam.results.store import Results

Key = tuple[str, int]  # label and client count

# Taken at every evaluation, and averaged as the accuracy is; of any other measure the last value counts.
AVERAGED = (
    *("test_accuracy", "test_loss", "calibration_error", "client_accuracy", "client_loss"),
    *(f"client_accuracy_{name}" for name in ("mean", "std", "worst10")),
)


@dataclass(frozen=True)
class LeaderboardEntry:
    """One line of the leaderboard: a method with a client count, over its seeds.

    Attributes:
        status: `finished`, or how far the best of its runs came.
        last: How many evaluations the final figures average; 0 when there was none.
        finals: Final test accuracy of each seed.
        measures: What each of its runs measured, at the end, with `gap` (accuracy on the clients' examples less test accuracy, after
            the same round) and `loss_gap` (test loss less loss on the clients' examples).
        rounds: The fewest of its runs.
        costs: Totals of a run, mean over seeds, by the names of `spent`.
        left_out: Runs not counted: unfinished, or a seed again.
    """

    label: str
    clients: int
    seeds: tuple[int, ...]
    status: str
    last: int
    finals: Mapping[int, float]
    measures: Mapping[str, Estimate]
    rounds: int
    costs: Mapping[str, float]
    left_out: int

    @property
    def key(self) -> Key:
        """Its label and client count."""
        return self.label, self.clients

    @property
    def accuracy(self) -> Estimate | None:
        """Final test accuracy, a fraction."""
        return self.measures.get("test_accuracy")

    @property
    def ranked(self) -> bool:
        """Whether its accuracy may be compared with that of others."""
        return self.status == "finished" and self.accuracy is not None and math.isfinite(self.accuracy.mean)

    @property
    def middle(self) -> float | None:
        """Interquartile mean of the final accuracies; None for few seeds."""
        return interquartile_mean(list(self.finals.values()))


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in their seed; `rows` has the rows of the ones that count, with cumulative costs."""

    label: str
    clients: int
    runs: tuple[Run, ...]
    rows: Mapping[str, Sequence[Row]]

    @property
    def key(self) -> Key:
        """Its label and client count."""
        return self.label, self.clients

    @property
    def counted(self) -> list[Run]:
        """The runs that its figures are made of, by seed."""
        return sorted((run for run in self.runs if run.id in self.rows), key=lambda run: run.seed)

    def evaluated(self) -> list[list[Row]]:
        """For each counted run the rows that have a test accuracy."""
        return [[row for row in self.rows[run.id] if "test_accuracy" in row.measures] for run in self.counted]


def groups(results: Results, runs: Sequence[Run]) -> list[SeedGroup]:
    """Runs by method and client count, fewer clients first, methods in the order of their first run."""
    names, members = labels(runs), defaultdict(list)
    for run in runs:
        members[run.clients, names[run.id]].append(run)
    order = list(dict.fromkeys(names[run.id] for run in runs))
    return [
        SeedGroup(label, clients, tuple(held), {run.id: cumulative(results.rounds(run.id)) for run in _counted(held)})
        for (clients, label), held in sorted(members.items(), key=lambda item: (item[0][0], order.index(item[0][1])))
    ]


def _counted(runs: Sequence[Run]) -> list[Run]:
    """Each seed once, its newest run; unfinished runs only where no run has finished."""
    finished = [run for run in runs if run.status == "finished"]
    return list({run.seed: run for run in sorted(finished or runs, key=lambda run: run.started)}.values())


def summarize(held: Sequence[SeedGroup]) -> list[LeaderboardEntry]:
    """The leaderboard: fewer clients first, then the better accuracy first; lines that cannot be ranked come last."""
    lines = [_line(group) for group in held]
    return sorted(lines, key=lambda line: (line.clients, not line.ranked, -line.accuracy.mean if line.ranked and line.accuracy else 0.0))


def _line(group: SeedGroup) -> LeaderboardEntry:
    counted, evaluated = group.counted, group.evaluated()
    last = min(group.runs[0].config["measure"]["last"], *(len(rows) for rows in evaluated))
    done = [len(group.rows[run.id]) for run in counted]
    furthest = max(zip(done, counted, strict=True), key=lambda item: item[0])
    statuses = " or ".join(dict.fromkeys(run.status for run in counted))
    status = "finished" if statuses == "finished" else f"{statuses} after round {furthest[0]} of {furthest[1].config['rounds']}"
    ends = [_end(group.rows[run.id], last) for run in counted]
    costs = [spent(run, group.rows[run.id][-1]) for run in counted if group.rows[run.id]]
    return LeaderboardEntry(
        label=group.label,
        clients=group.clients,
        seeds=tuple(run.seed for run in counted),
        status=status,
        last=last,
        finals={run.seed: end["test_accuracy"] for run, end in zip(counted, ends, strict=True) if last},
        measures={name: Estimate.of([end[name] for end in ends]) for name in _shared(ends)},
        rounds=min(done),
        costs={name: float(np.mean([cost[name] for cost in costs])) for name in _shared(costs)},
        left_out=len(group.runs) - len(counted),
    )


def _shared(tables: Sequence[Mapping[str, float]]) -> list[str]:
    """The names that all tables have."""
    return [name for name in tables[0] if all(name in table for table in tables)] if tables else []


def _end(rows: Sequence[Row], last: int) -> dict[str, float]:
    """What a run measured, at its end."""
    end: dict[str, float] = {}
    for row in rows:
        end |= {**row.measures, **_gaps(row.measures)}
    tail = [row.measures for row in rows if "test_accuracy" in row.measures][-last:] if last else []
    for name in AVERAGED:
        values = [measures[name] for measures in tail if name in measures]
        if values:
            end[name] = float(np.mean(values))
        else:
            end.pop(name, None)
    return end


def _gaps(measures: Mapping[str, float]) -> dict[str, float]:
    if not measures.keys() >= {"union_accuracy", "union_loss", "test_accuracy", "test_loss"}:
        return {}
    return {
        "gap": measures["union_accuracy"] - measures["test_accuracy"],
        "loss_gap": measures["test_loss"] - measures["union_loss"],
    }
