"""The leaderboard: final accuracies and measures with their intervals over seeds, and costs, computed from rows alone.

Runs that differ only in their seed form one entry. Its accuracy is the mean over seeds of the mean of each run's last evaluations, with
the 95 % interval of Student's t; one seed gives no interval. An entry counts finished and diverged runs if it has any, and each seed once.
The final figures of a run that was stopped because it diverged are not numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.analysis.conditions import run_conditions
from experiments.analysis.cost import run_cost
from experiments.analysis.dead_runs import chance_level, is_dead
from experiments.analysis.labels import labels
from experiments.analysis.statistics import Estimate, interquartile_mean
from fedsam.formatting import listed
from fedsam.results.final import diverged_round, final_measures, is_evaluated
from fedsam.results.rows import CONCLUDED, Row, Run, cumulative
from fedsam.results.store import Results

EntryKey = tuple[str, int]  # label and client count, a `Condition` where runs differ in other data settings too


@dataclass(frozen=True)
class LeaderboardEntry:
    """A method in a condition, over its seeds.

    Attributes:
        label: The method.
        clients: The client count, a `Condition`.
        seeds: Of the runs that count.
        status: `finished`, or the status and progress of its most advanced run, and which runs diverged.
        evaluations_averaged: Number of evaluations behind the final figures of each run; 0 when there was none.
        final_accuracies: Final test accuracy of each seed, a fraction.
        measures: Final value of each measure that all its runs have, as of `final_measures`.
        rounds: Fewest rounds of its runs.
        costs: Totals of a run, mean over seeds, by the names of `run_cost`.
        excluded_runs: Number of runs that do not count: unfinished, or a repetition of a seed.
        dead_runs: Those that count and ended at chance level or not finite; their results are not what the method can do.
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
    dead_runs: tuple[Run, ...] = ()

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
    def is_alive(self) -> bool:
        """Whether it is ranked and none of its runs is dead, so that claims about the method may rest on it."""
        return self.is_ranked and not self.dead_runs

    @property
    def shown_status(self) -> str:
        """Its status, and how many of its runs ended at chance level."""
        dead = [run for run in self.dead_runs if run.status != "diverged"]
        if not dead:
            return self.status
        share = "" if len(dead) == len(self.seeds) else f"{len(dead)} of {len(self.seeds)} runs "
        return f"{'' if self.status == 'finished' else f'{self.status}, '}{share}at chance"

    @property
    def interquartile_mean(self) -> float | None:
        """Interquartile mean of the final accuracies; None for few seeds."""
        return interquartile_mean(list(self.final_accuracies.values()))


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in their seed.

    Attributes:
        label: The method.
        clients: The client count, a `Condition`.
        runs: All of them.
        rows: By run id, the rows with cumulative costs of the runs that count.
        diverged: By run id, the round since which a run that counts is diverged.
        chance_level: An accuracy, a fraction, up to which its runs are no better than a guess.
    """

    label: str
    clients: int
    runs: tuple[Run, ...]
    rows: Mapping[str, Sequence[Row]]
    diverged: Mapping[str, int]
    chance_level: float

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

    def final_rows(self) -> list[list[Row]]:
        """For each counted run the rows that its final figures may come from."""
        return [[row for row in self.rows[run.id] if is_evaluated(row)] for run in self.counted_runs]

    def evaluations_averaged(self, evaluated: Sequence[Sequence[Row]]) -> int:
        """Number of evaluations behind the final accuracy of each run, the same for all: `measure.last`, or as many as each has."""
        return min(int(self.runs[0].config["measure"]["last"]), *(len(rows) for rows in evaluated))


def seed_groups(results: Results, runs: Sequence[Run]) -> list[SeedGroup]:
    """Runs grouped by method and condition: fewer clients first, methods in the order of their first run."""
    names, where, members = labels(runs, results.tuned_settings([run.id for run in runs])), run_conditions(runs), defaultdict(list)
    for run in runs:
        members[where[run.id], names[run.id]].append(run)
    order = list(dict.fromkeys(names[run.id] for run in runs))
    return [
        _seed_group(results, label, clients, group)
        for (clients, label), group in sorted(members.items(), key=lambda item: (item[0][0], order.index(item[0][1])))
    ]


def _seed_group(results: Results, label: str, clients: int, runs: Sequence[Run]) -> SeedGroup:
    rows = {run.id: results.rounds(run.id) for run in _counted(runs)}
    status = {run.id: run.status for run in runs}
    diverged = {run: round for run, own in rows.items() if (round := diverged_round(own, status[run])) is not None}
    level = chance_level(runs[0].dataset, results.label_distribution(runs[0].id))
    return SeedGroup(label, clients, tuple(runs), {run: cumulative(own) for run, own in rows.items()}, diverged, level)


def _counted(runs: Sequence[Run]) -> list[Run]:
    """Each seed once, its newest run; unfinished runs only where no run has finished or diverged."""
    concluded = [run for run in runs if run.status in CONCLUDED]
    return list({run.seed: run for run in sorted(concluded or runs, key=lambda run: run.started)}.values())


def summarize(groups: Sequence[SeedGroup]) -> list[LeaderboardEntry]:
    """The leaderboard: fewer clients first, then the better accuracy first, then the entries that are not ranked."""
    entries = [_entry(group) for group in groups]
    return sorted(entries, key=_order)


def _order(entry: LeaderboardEntry) -> tuple[int, bool, float]:
    return entry.clients, not entry.is_ranked, -entry.accuracy.mean if entry.is_ranked and entry.accuracy else 0.0


def _entry(group: SeedGroup) -> LeaderboardEntry:
    runs, evaluated = group.counted_runs, group.final_rows()
    sound = [rows for run, rows in zip(runs, evaluated, strict=True) if run.status != "diverged"]
    averaged = group.evaluations_averaged(sound) if sound else 0
    rounds = [len(group.rows[run.id]) for run in runs]
    finals = [_final(run, group.rows[run.id], averaged) for run in runs]
    costs = [run_cost(run, group.rows[run.id][-1]) for run in runs if group.rows[run.id]]
    return LeaderboardEntry(
        label=group.label,
        clients=group.clients,
        seeds=tuple(run.seed for run in runs),
        status=_status(runs, rounds, sorted(group.diverged.values())),
        evaluations_averaged=averaged,
        final_accuracies={run.seed: final["test_accuracy"] for run, final in zip(runs, finals, strict=True) if "test_accuracy" in final},
        measures={name: Estimate.of([final[name] for final in finals]) for name in _common_names(finals)},
        rounds=min(rounds),
        costs={name: float(np.mean([cost[name] for cost in costs])) for name in _common_names(costs)},
        excluded_runs=len(group.runs) - len(runs),
        dead_runs=tuple(
            run for run, final in zip(runs, finals, strict=True) if run.status in CONCLUDED and is_dead(final, group.chance_level)
        ),
    )


def _final(run: Run, rows: Sequence[Row], last: int) -> Mapping[str, float]:
    final = final_measures(rows, last)
    tested = ("test_accuracy", "test_loss") if run.config["measure"]["test"] else ()
    return dict.fromkeys((*final, *tested), math.nan) if run.status == "diverged" else final


def _status(runs: Sequence[Run], rounds: Sequence[int], diverged: Sequence[int]) -> str:
    statuses = " or ".join(dict.fromkeys(run.status for run in runs))
    share = f"{len(diverged)} of {len(runs)} runs " if len(runs) > 1 else ""
    divergence = f"{share}diverged in round {listed(list(dict.fromkeys(diverged)))}" if diverged else ""
    if all(run.status in CONCLUDED for run in runs):
        return divergence or statuses
    done, furthest = max(zip(rounds, runs, strict=True), key=lambda item: item[0])
    return f"{statuses} after round {done} of {furthest.config['rounds']}{divergence and f', {divergence}'}"


def _common_names(tables: Sequence[Mapping[str, float]]) -> list[str]:
    """The names that all tables have."""
    return [name for name in tables[0] if all(name in table for table in tables)] if tables else []
