"""Statistics over seeds: intervals, paired tests, corrections for multiple comparisons, ranks and Pareto fronts.

`scipy.stats` takes a second to import, so only what needs it does: the tables of one seed do not.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from experiments.analysis.estimate import SIGNIFICANCE_LEVEL as SIGNIFICANCE_LEVEL
from experiments.analysis.estimate import Estimate as Estimate

Key = TypeVar("Key", bound=Hashable)

INTERQUARTILE_MIN_SEEDS = 5
MAX_SIGN_FLIPS = 2**14  # a test enumerates up to so many (14 seeds) and samples so many beyond
MAX_PERMUTATIONS = 9999  # the same for the orders of a rank correlation (7 methods)


def paired_differences(values: Mapping[Key, float], others: Mapping[Key, float]) -> list[float]:
    """`values` minus `others` for each seed of both. A seed fixes the partition and the initial weights, so the runs are paired."""
    return [values[seed] - others[seed] for seed in values if seed in others]


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of the hypothesis that the sign of each difference is random; exact up to 14 seeds.

    >>> sign_flip_test([0.1, 0.2, 0.3]), smallest_p(3)
    (0.25, 0.25)
    """
    from scipy import stats

    unit = max(map(abs, differences), default=0.0) or 1.0

    def mean(values: Any, axis: int) -> Any:
        """Mean, rounded so that sums in different orders compare equal."""
        return np.round(np.mean(values, axis=axis) / unit, 12)

    test = stats.permutation_test((differences,), mean, permutation_type="samples", n_resamples=MAX_SIGN_FLIPS, vectorized=True, rng=0)
    return float(test.pvalue)


def smallest_p(seeds: int) -> float:
    """Smallest p-value of `sign_flip_test` for n seeds: two of the 2^n sign vectors are the most extreme."""
    return 2.0 ** (1 - seeds)


def holm_correction(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p-values corrected by Holm's method, which bounds the probability of any false rejection.

    Source: Holm, 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm_correction({"sam": 0.01, "esam": 0.04, "msam": 0.03})
    {'sam': 0.03, 'esam': 0.06, 'msam': 0.06}
    """
    adjusted, highest = {}, 0.0
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[key]))
        adjusted[key] = highest
    return {key: adjusted[key] for key in p_values}


def interquartile_mean(values: Sequence[float]) -> float | None:
    """Mean without the lowest and the highest quarter of the values, rounded down; None for fewer than 5 values.

    Source: Agarwal et al., 2021, arXiv:2108.13264.
    """
    if len(values) < INTERQUARTILE_MIN_SEEDS:
        return None
    from scipy import stats

    return float(stats.trim_mean(values, 0.25))


def ranks(values: Sequence[float]) -> list[int]:
    """Ranks from 1 for the highest value; equal values share the better rank.

    >>> ranks([0.1, 0.3, 0.2, 0.3])
    [4, 1, 3, 1]
    """
    return [1 + sum(other > value for other in values) for value in values]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        rho: From -1 to 1.
        p_value: Two-sided, by permutation.
        methods: Number of points.
    """

    rho: float
    p_value: float
    methods: int


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Rank correlation of the finite pairs; None for fewer than four of them, or where x or y is constant."""
    finite = np.isfinite(x) & np.isfinite(y)
    if finite.sum() < 4:
        return None
    from scipy import stats

    first, second = (stats.rankdata(np.asarray(values)[finite]) for values in (x, y))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    a, b = ((ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean()) for ranks in (first, second))
    test = stats.permutation_test(
        (a,), lambda a, axis: (a * b).sum(axis=axis), permutation_type="pairings", n_resamples=MAX_PERMUTATIONS, vectorized=True, rng=0
    )
    return Correlation(float(test.statistic), float(test.pvalue), len(first))


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the Pareto front, cheapest first: no other point has at least the value for at most the cost.

    >>> pareto_front([3, 1, 2, 2], [0.9, 0.5, 0.4, 0.6])
    [1, 3, 0]
    """
    best, found = -math.inf, []
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], -values[index])):
        if values[index] > best:
            best = values[index]
            found.append(index)
    return found
