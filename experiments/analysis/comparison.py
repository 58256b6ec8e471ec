"""What is asked of a set of runs: who is the baseline, how far is each method from it, what target counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from experiments.analysis.curves import EqualCost, Series, TimeToTarget, equal, reached, series
from experiments.analysis.labels import flatten
from experiments.analysis.leaderboard import Key, LeaderboardEntry, SeedGroup, groups, summarize
from experiments.analysis.statistics import Correlation, Estimate, holm, paired, ranks, sign_flip, spearman
from fedsam.config import ConfigError
from fedsam.results.rows import Run
from fedsam.results.store import Results

FRONTS = ("gradient_evaluations", "flops", "client_seconds", "bytes", "simulated_seconds")
BASELINES = ("sgd", "fedavg")  # the method that others are compared with by default, if there is one


@dataclass(frozen=True)
class PairedTest:
    """How far a method is above the baseline with the same client count, over the seeds that both have.

    Attributes:
        difference: Of final test accuracies, fractions, paired by seed.
        p: Two-sided, by sign flips; None for one seed.
        adjusted: `p` after Holm's correction over the methods of this client count.
    """

    difference: Estimate
    seeds: int
    p: float | None
    adjusted: float | None


@dataclass(frozen=True)
class Comparison:
    """Runs, grouped and compared: all that a report shows follows from it.

    Attributes:
        baseline: The label of the method that the others are compared with.
        wanted: The target accuracy that was asked for; None: the weakest ranked method sets one for each client count.
    """

    results: Results
    runs: tuple[Run, ...]
    held: tuple[SeedGroup, ...]
    lines: tuple[LeaderboardEntry, ...]
    baseline: str
    wanted: float | None

    @cached_property
    def methods(self) -> list[str]:
        """Labels, in the order of their first run, which is the order of colours."""
        found = {run.id: group.label for group in self.held for run in group.runs}
        return list(dict.fromkeys(found[run.id] for run in self.runs))

    @cached_property
    def counts(self) -> list[int]:
        """Client counts, fewer first."""
        return sorted({group.clients for group in self.held})

    @cached_property
    def ranked(self) -> list[LeaderboardEntry]:
        """The lines whose accuracies may be compared."""
        return [line for line in self.lines if line.ranked]

    @cached_property
    def ranks(self) -> Mapping[Key, int]:
        """Place of each ranked line among those of its client count."""
        places: dict[Key, int] = {}
        for clients in self.counts:
            lines = [line for line in self.ranked if line.clients == clients]
            order = ranks([line.measures["test_accuracy"].mean for line in lines])
            places |= {(line.label, clients): place for line, place in zip(lines, order, strict=True)}
        return places

    @cached_property
    def versus(self) -> Mapping[Key, PairedTest]:
        """Each ranked method against the baseline, where they have a seed in common."""
        found: dict[Key, PairedTest] = {}
        for clients in self.counts:
            lines = {line.label: line for line in self.ranked if line.clients == clients}
            base = lines.pop(self.baseline, None)
            pairs = {label: paired(line.finals, base.finals) for label, line in lines.items()} if base else {}
            ps = {label: sign_flip(differences) for label, differences in pairs.items() if len(differences) > 1}
            adjusted = holm(ps)
            found |= {
                (label, clients): PairedTest(Estimate.of(differences), len(differences), ps.get(label), adjusted.get(label))
                for label, differences in pairs.items()
                if differences
            }
        return found

    @cached_property
    def series(self) -> list[Series]:
        """The curves of all groups that were evaluated."""
        return series(self.held)

    @cached_property
    def targets(self) -> Mapping[int, float]:
        """The target accuracy for each client count: the one wanted, else the final accuracy of its weakest ranked method."""
        if self.wanted is not None:
            return dict.fromkeys(self.counts, self.wanted)
        finals = {n: [line.measures["test_accuracy"].mean for line in self.ranked if line.clients == n] for n in self.counts}
        return {clients: min(values) for clients, values in finals.items() if values}

    @cached_property
    def reached(self) -> Mapping[Key, TimeToTarget]:
        """What each group spent until its target."""
        held = [group for group in self.held if group.clients in self.targets]
        return {group.key: reached(group, self.targets[group.clients]) for group in held}

    @cached_property
    def prices(self) -> Mapping[str, bool]:
        """The costs that fronts are drawn for, and whether any two methods of a client count differ in them by a hundredth."""
        names = [name for name in FRONTS if self.ranked and all(name in line.costs for line in self.ranked)]
        paid = {name: [[line.costs[name] for line in self.ranked if line.clients == n] for n in self.counts] for name in names}
        return {name: any(max(values) > 1.01 * min(values) for values in paid[name] if values) for name in names}

    @cached_property
    def equal(self) -> list[EqualCost]:
        """Accuracies of the ranked lines where all have spent the same; nothing for one line alone."""
        kept = {line.key for line in self.ranked}
        return equal([group for group in self.held if group.key in kept]) if len(kept) > 1 else []

    def correlation(self, measure: str, clients: int) -> Correlation | None:
        """Rank correlation of final accuracy with a measure, over the ranked methods of one client count; None for too few of them."""
        lines = [line for line in self.ranked if line.clients == clients and measure in line.measures]
        return spearman([line.measures[measure].mean for line in lines], [line.measures["test_accuracy"].mean for line in lines])


def compare_runs(results: Results, runs: Sequence[Run], baseline: str | None = None, target_accuracy: float | None = None) -> Comparison:
    """Runs, grouped and compared.

    Args:
        baseline: A label; default: the method called sgd or fedavg, else the first one.
        target_accuracy: A fraction; default: the runs' `measure.target`, the lowest if they differ.

    Raises:
        ConfigError: No method has the label, or the target is no fraction.
    """
    if target_accuracy is not None and not 0 < target_accuracy <= 1:
        raise ConfigError(f"target: {target_accuracy:g} is not allowed: must be an accuracy above 0 and at most 1")
    held = groups(results, runs)
    methods = list(dict.fromkeys(group.label for group in held))
    if baseline is not None and baseline not in methods:
        raise ConfigError(f"baseline: {baseline!r} is not known; allowed: {'; '.join(methods)}")
    own = [value for run in runs if (value := flatten(run).get("measure.target")) is not None]
    return Comparison(
        results=results,
        runs=tuple(runs),
        held=tuple(held),
        lines=tuple(summarize(held)),
        baseline=baseline if baseline is not None else _baseline(methods),
        wanted=target_accuracy if target_accuracy is not None else min(own, default=None),
    )


def _baseline(methods: Sequence[str]) -> str:
    """The method called sgd or fedavg, alone or with settings or parts behind; else the first."""
    exact = [method for name in BASELINES for method in methods if method.lower() == name]
    like = [method for name in BASELINES for method in methods if re.match(rf"{name}\b", method, re.IGNORECASE)]
    return [*exact, *like, *methods][0]
