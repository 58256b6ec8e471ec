"""A comparison of runs: groups over seeds, leaderboard, paired tests against a baseline, times to a target, equal cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from experiments.analysis.conditions import data_text
from experiments.analysis.curves import Curve, EqualCost, TimeToTarget, equal_costs, measure_curves, time_to_target
from experiments.analysis.interaction import Interaction, interactions
from experiments.analysis.labels import flatten
from experiments.analysis.leaderboard import EntryKey, LeaderboardEntry, SeedGroup, seed_groups, summarize
from experiments.analysis.statistics import Correlation, Estimate, holm_correction, paired_differences, ranks, sign_flip_test, spearman
from fedsam.config import ConfigError
from fedsam.results.rows import Run
from fedsam.results.store import Results

# Pareto fronts are drawn against these.
FRONT_COSTS = ("gradient_evaluations", "flops", "client_seconds", "bytes", "simulated_seconds")
DEFAULT_BASELINES = ("sgd", "fedavg")  # names of the default baseline, in order of preference


@dataclass(frozen=True)
class PairedTest:
    """A method compared with the baseline in the same condition, over the seeds that both have.

    Attributes:
        difference: Final test accuracy minus that of the baseline, a fraction, paired by seed.
        simultaneous: The same with an interval at the 95 % level for all methods of the condition together: Bonferroni's, the t-interval
            at 1 - 0.05 / m for m methods that were compared.
        seeds: Number of pairs.
        p_value: Two-sided, of the sign-flip test; None for one seed.
        adjusted_p_value: After Holm's correction over the methods of this condition; None for one seed.
    """

    difference: Estimate
    simultaneous: Estimate
    seeds: int
    p_value: float | None
    adjusted_p_value: float | None


@dataclass(frozen=True)
class Comparison:
    """Runs, grouped and compared; a report is made of this alone.

    Attributes:
        results: The open database of the runs.
        runs: In the order given.
        groups: The runs by method and condition.
        entries: The leaderboard, one entry for each group.
        baseline: Label of the method that the others are compared with.
        target_accuracy: The target that was asked for, a fraction; None: the weakest ranked method sets one for each condition.
    """

    results: Results
    runs: tuple[Run, ...]
    groups: tuple[SeedGroup, ...]
    entries: tuple[LeaderboardEntry, ...]
    baseline: str
    target_accuracy: float | None

    @cached_property
    def labels(self) -> Mapping[str, str]:
        """The label of each run by its id."""
        return {run.id: group.label for group in self.groups for run in group.runs}

    @cached_property
    def methods(self) -> list[str]:
        """Labels of the methods, in the order of their first run."""
        return list(dict.fromkeys(self.labels[run.id] for run in self.runs))

    @cached_property
    def conditions(self) -> list[int]:
        """What methods are compared within, in order: a `Condition` each, which is a client count where runs differ in no data setting."""
        return sorted({group.clients for group in self.groups})

    @cached_property
    def client_counts(self) -> list[int]:
        """Client counts, ascending."""
        return sorted({int(clients) for clients in self.conditions})

    @cached_property
    def data_settings(self) -> list[str]:
        """The data settings of the conditions in words, in order; a single empty text where all runs have the same."""
        return list(dict.fromkeys(map(data_text, self.conditions)))

    @property
    def counted_runs(self) -> list[Run]:
        """The runs behind the figures of the entries."""
        return [run for group in self.groups for run in group.counted_runs]

    def entry(self, key: EntryKey) -> LeaderboardEntry:
        """The entry of a label and client count."""
        return next(entry for entry in self.entries if entry.key == key)

    @cached_property
    def ranked_entries(self) -> list[LeaderboardEntry]:
        """Entries whose accuracies may be compared."""
        return [entry for entry in self.entries if entry.is_ranked]

    @cached_property
    def ranks(self) -> Mapping[EntryKey, int]:
        """Rank of each ranked entry, from 1, within its condition."""
        found: dict[EntryKey, int] = {}
        for clients in self.conditions:
            entries = self._ranked(clients)
            order = ranks([entry.measures["test_accuracy"].mean for entry in entries])
            found |= {entry.key: rank for entry, rank in zip(entries, order, strict=True)}
        return found

    @cached_property
    def mean_ranks(self) -> Mapping[str, float]:
        """Mean over conditions of the rank of each method that is ranked in all of them; empty for one condition."""
        if len(self.conditions) == 1:
            return {}
        own = {label: [self.ranks.get((label, clients)) for clients in self.conditions] for label in self.methods}
        return {label: fmean(rank for rank in found if rank) for label, found in own.items() if None not in found}

    @cached_property
    def interactions(self) -> list[Interaction]:
        """Whether the gaps of the methods to the baseline change with the number of clients, and with the data."""
        return interactions(self.baseline, {entry.key: entry.final_accuracies for entry in self.ranked_entries})

    @cached_property
    def paired_tests(self) -> Mapping[EntryKey, PairedTest]:
        """Ranked methods against the baseline, where they have a seed in common."""
        return self._tests({entry.key: entry.final_accuracies for entry in self.ranked_entries})

    @cached_property
    def tests_at_equal_cost(self) -> Mapping[EntryKey, PairedTest]:
        """As `paired_tests`, where all of a condition have spent the same gradient evaluations."""
        equal = next((one for one in self.equal_costs if one.cost == "gradient_evaluations"), None)
        return self._tests({key: seeds for key, seeds in equal.accuracies.items() if seeds}) if equal else {}

    def _tests(self, accuracies: Mapping[EntryKey, Mapping[int, float]]) -> dict[EntryKey, PairedTest]:
        """The methods of each condition against the baseline, of whose runs an accuracy is given by seed."""
        found: dict[EntryKey, PairedTest] = {}
        for clients in self.conditions:
            own = {label: seeds for (label, where), seeds in accuracies.items() if where == clients}
            base = own.pop(self.baseline, None)
            if base is None:
                continue
            pairs = {label: paired_differences(seeds, base) for label, seeds in own.items()}
            p_values = {label: sign_flip_test(differences) for label, differences in pairs.items() if len(differences) > 1}
            adjusted = holm_correction(p_values)
            found |= {
                (label, clients): PairedTest(
                    difference=Estimate.of(differences),
                    simultaneous=Estimate.of(differences, comparisons=len(p_values)),
                    seeds=len(differences),
                    p_value=p_values.get(label),
                    adjusted_p_value=adjusted.get(label),
                )
                for label, differences in pairs.items()
                if differences
            }
        return found

    @cached_property
    def curves(self) -> list[Curve]:
        """Accuracy of the groups that were evaluated."""
        return measure_curves(self.groups)

    @cached_property
    def targets(self) -> Mapping[int, float]:
        """Target accuracy by condition: the one asked for, else the final accuracy of the weakest ranked method."""
        if self.target_accuracy is not None:
            return dict.fromkeys(self.conditions, self.target_accuracy)
        accuracies = {n: [entry.measures["test_accuracy"].mean for entry in self._ranked(n)] for n in self.conditions}
        return {clients: min(values) for clients, values in accuracies.items() if values}

    @cached_property
    def times_to_target(self) -> Mapping[EntryKey, TimeToTarget]:
        """Cost of reaching the target, of each group that has one."""
        groups = [group for group in self.groups if group.clients in self.targets]
        return {group.key: time_to_target(group, self.targets[group.clients]) for group in groups}

    @cached_property
    def costs_differ(self) -> Mapping[str, bool]:
        """For each of `FRONT_COSTS` that all ranked entries have: whether methods of one condition differ in it by over 1 %."""
        names = [name for name in FRONT_COSTS if self.ranked_entries and all(name in entry.costs for entry in self.ranked_entries)]
        values = {name: [[entry.costs[name] for entry in self._ranked(n)] for n in self.conditions] for name in names}
        return {name: any(max(costs) > 1.01 * min(costs) for costs in values[name] if costs) for name in names}

    @cached_property
    def equal_costs(self) -> list[EqualCost]:
        """Accuracies of the ranked entries at equal cost; empty for fewer than two of them."""
        keys = {entry.key for entry in self.ranked_entries}
        return equal_costs([group for group in self.groups if group.key in keys]) if len(keys) > 1 else []

    def correlation(self, measure: str, clients: int) -> Correlation | None:
        """Rank correlation of final accuracy with a measure over the methods of one condition that learn; None for too few of them."""
        entries = [entry for entry in self._ranked(clients) if entry.is_alive and measure in entry.measures]
        return spearman([entry.measures[measure].mean for entry in entries], [entry.measures["test_accuracy"].mean for entry in entries])

    def _ranked(self, clients: int) -> list[LeaderboardEntry]:
        return [entry for entry in self.ranked_entries if entry.clients == clients]


def compare_runs(results: Results, runs: Sequence[Run], baseline: str | None = None, target_accuracy: float | None = None) -> Comparison:
    """Group runs and compare them.

    Args:
        baseline: Label of a method; default: the one called sgd or fedavg, else the first.
        target_accuracy: A fraction; default: the runs' `measure.target`, the lowest if they differ.

    Raises:
        ConfigError: No method has the label, or the target is no fraction.
    """
    if target_accuracy is not None and not 0 < target_accuracy <= 1:
        raise ConfigError(f"target: {target_accuracy:g} is not allowed: must be an accuracy above 0 and at most 1")
    groups = seed_groups(results, runs)
    methods = list(dict.fromkeys(group.label for group in groups))
    if baseline is not None and baseline not in methods:
        raise ConfigError(f"baseline: {baseline!r} is not known; allowed: {'; '.join(methods)}")
    own = [value for run in runs if (value := flatten(run).get("measure.target")) is not None]
    return Comparison(
        results=results,
        runs=tuple(runs),
        groups=tuple(groups),
        entries=tuple(summarize(groups)),
        baseline=baseline if baseline is not None else _default_baseline(methods),
        target_accuracy=target_accuracy if target_accuracy is not None else min(own, default=None),
    )


def _default_baseline(methods: Sequence[str]) -> str:
    """The method called sgd or fedavg, alone or with settings or components behind; else the first."""
    exact = [method for name in DEFAULT_BASELINES for method in methods if method.lower() == name]
    like = [method for name in DEFAULT_BASELINES for method in methods if re.match(rf"{name}\b", method, re.IGNORECASE)]
    return [*exact, *like, *methods][0]
