"""Interaction: whether the gap of a method to the baseline changes with the number of clients, or with the data."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import numpy as np

from experiments.analysis.conditions import Condition, DataSetting
from experiments.analysis.leaderboard import EntryKey
from experiments.analysis.statistics import Estimate, holm_correction, sign_flip_test

Gaps = Mapping[int, Mapping[int, float]]  # by condition and seed: accuracy minus that of the baseline, a fraction


@dataclass(frozen=True)
class Interaction:
    """The change of a method's gap to the baseline along one quantity, over the seeds that all conditions have.

    Attributes:
        label: The method.
        along: `clients` or `data`.
        text: What the change is from and to, in words.
        change: A fraction: for clients, the slope of the least-squares line of the gap over log10(clients), that is for ten times as many;
            for data, the gap on the last data setting minus that on the first. Its interval is simultaneous over the methods, as that of
            `PairedTest`; the slope is averaged over data settings, the difference over numbers of clients.
        seeds: Number of seeds.
        p_value: Two-sided, of the sign-flip test over seeds; None for one seed.
        adjusted_p_value: After Holm's correction over the methods; None for one seed.
    """

    label: str
    along: Literal["clients", "data"]
    text: str
    change: Estimate
    seeds: int
    p_value: float | None
    adjusted_p_value: float | None = None


def interactions(baseline: str, accuracies: Mapping[EntryKey, Mapping[int, float]]) -> list[Interaction]:
    """The interactions of all methods with the number of clients, then with the data.

    Data are compared where there are two data settings, or where one number tells them apart. A method takes part where it and the
    baseline have every condition and a seed in common.

    Args:
        accuracies: By label and condition, for each seed the final test accuracy, a fraction.
    """
    conditions = sorted({clients for _, clients in accuracies})
    methods = dict.fromkeys(label for label, _ in accuracies if label != baseline)
    complete = [label for label in methods if all((one, n) in accuracies for one in (label, baseline) for n in conditions)]
    gaps = {label: {n: _minus(accuracies[label, n], accuracies[baseline, n]) for n in conditions} for label in complete}
    along_clients = {label: _slopes(found) for label, found in gaps.items()}
    counts = sorted({int(clients) for clients in conditions})
    settings = sorted({n.data for n in conditions if isinstance(n, Condition) and n.data})
    found = _tested("clients", f"for ten times as many clients, {counts[0]} to {counts[-1]}", along_clients) if len(counts) > 1 else []
    if len(settings) == 2 or (len(settings) > 2 and all(one.is_number for one in settings)):
        first, last = settings[0], settings[-1]
        along_data = {label: _data_changes(own, first, last) for label, own in gaps.items()}
        found += _tested("data", f"from {first.text} to {last.text}", along_data)
    return found


def _minus(values: Mapping[int, float], others: Mapping[int, float]) -> dict[int, float]:
    return {seed: values[seed] - others[seed] for seed in values if seed in others}


def _slopes(gaps: Gaps) -> list[float]:
    """For each seed the slope over log10(clients), averaged over the data settings with more than one number of clients."""
    families: defaultdict[DataSetting | None, list[int]] = defaultdict(list)
    for clients in gaps:
        families[clients.data if isinstance(clients, Condition) else None].append(clients)
    usable = [own for own in families.values() if len(own) > 1]
    return [fmean(_slope(own, [gaps[n][seed] for n in own]) for own in usable) for seed in _common_seeds(gaps.values())] if usable else []


def _slope(clients: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polynomial.Polynomial.fit(np.log10([int(n) for n in clients]), values, 1).convert().coef[-1])


def _data_changes(gaps: Gaps, first: DataSetting, last: DataSetting) -> list[float]:
    """For each seed the gap on the last data setting minus that on the first, averaged over the numbers of clients of both."""
    ends = [(Condition(n, first), Condition(n, last)) for n in dict.fromkeys(map(int, gaps))]
    pairs = [(gaps[before], gaps[after]) for before, after in ends if before in gaps and after in gaps]
    seeds = _common_seeds(itertools.chain.from_iterable(pairs)) if pairs else []
    return [fmean(after[seed] - before[seed] for before, after in pairs) for seed in seeds]


def _common_seeds(tables: Iterable[Mapping[int, float]]) -> list[int]:
    return sorted(set.intersection(*(set(table) for table in tables)))


def _tested(along: Literal["clients", "data"], text: str, changes: Mapping[str, Sequence[float]]) -> list[Interaction]:
    p_values = {label: sign_flip_test(values) for label, values in changes.items() if len(values) > 1}
    adjusted = holm_correction(p_values)
    found = [
        Interaction(label, along, text, Estimate.of(values, comparisons=len(p_values)), len(values), p_values.get(label))
        for label, values in changes.items()
        if values
    ]
    return [replace(one, adjusted_p_value=adjusted.get(one.label)) for one in found]
