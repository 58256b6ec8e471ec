"""Statistics over seeds: intervals, paired differences with an exact test, corrections for many methods, ranks and fronts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy import stats
from scipy.special import stdtrit

Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.05  # of tests; intervals have 95 %
FEWEST = 5  # seeds that an interquartile mean needs
EXACT = 2**14  # permutations at most that a test goes through: all sign flips of 14 seeds; beyond, so many are drawn
PAIRINGS = 9999  # the same for a rank correlation: all orders of 7 methods


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its 95 % interval, which is None for one seed; NaN when a run diverged."""

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """The estimate from one value per seed.

        >>> Estimate.of([1.0, 2.0, 3.0]).half_width.__format__(".4f")  # 4.3027 standard errors
        '2.4841'
        """
        if len(values) == 1:
            return cls(float(values[0]), None)
        return cls(float(np.mean(values)), float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values))))

    @property
    def clear(self) -> bool:
        """Whether there is an interval and zero lies outside it."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def paired(values: Mapping[Key, float], others: Mapping[Key, float]) -> list[float]:
    """`values` minus `others` for each seed that both have: a seed fixes the partition and the initial weights of both."""
    return [values[seed] - others[seed] for seed in values if seed in others]


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the hypothesis that each difference could as well have had the other sign; exact up to 14 seeds.

    >>> sign_flip([0.1, 0.2, 0.3]), smallest_p(3)
    (0.25, 0.25)
    """
    unit = max(map(abs, differences), default=0.0) or 1.0

    def mean(values: Any, axis: int) -> Any:
        """Rounded, so that means which are equal but for the order of their sums count as equal."""
        return np.round(np.mean(values, axis=axis) / unit, 12)

    test = stats.permutation_test((differences,), mean, permutation_type="samples", n_resamples=EXACT, vectorized=True, rng=0)
    return float(test.pvalue)


def smallest_p(seeds: int) -> float:
    """The smallest p that `sign_flip` can give for so many seeds: only two of the 2^n signs are as extreme as equal ones."""
    return 2.0 ** (1 - seeds)


def holm(ps: Mapping[Key, float]) -> dict[Key, float]:
    """p-values corrected for their number, so that the chance of any false claim among them stays at the level.

    Source: Holm, 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm({"sam": 0.01, "esam": 0.04, "msam": 0.03})
    {'sam': 0.03, 'esam': 0.06, 'msam': 0.06}
    """
    adjusted, highest = {}, 0.0
    for place, key in enumerate(sorted(ps, key=lambda key: ps[key])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[key]))
        adjusted[key] = highest
    return {key: adjusted[key] for key in ps}


def interquartile_mean(values: Sequence[float]) -> float | None:
    """The mean without the lowest and the highest quarter, rounded down; None for fewer than 5 seeds.

    Source: Agarwal et al., 2021, arXiv:2108.13264.
    """
    return float(stats.trim_mean(values, 0.25)) if len(values) >= FEWEST else None


def ranks(values: Sequence[float]) -> list[int]:
    """Places from 1, the highest value first; equal values share the better place.

    >>> ranks([0.1, 0.3, 0.2, 0.3])
    [4, 1, 3, 1]
    """
    return [int(place) for place in stats.rankdata(-np.asarray(values), method="min")]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of `methods` points, with its two-sided p by permutation."""

    rho: float
    p: float
    methods: int


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """The rank correlation of finite pairs; None for fewer than four of them, or when all have one value."""
    finite = np.isfinite(x) & np.isfinite(y)
    first, second = (stats.rankdata(np.asarray(values)[finite]) for values in (x, y))
    if len(first) < 4 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    a, b = ((ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean()) for ranks in (first, second))
    test = stats.permutation_test(
        (a,), lambda a, axis: (a * b).sum(axis=axis), permutation_type="pairings", n_resamples=PAIRINGS, vectorized=True, rng=0
    )
    return Correlation(float(test.statistic), float(test.pvalue), len(first))


def front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the Pareto front, cheapest first: nothing else has at least the value for at most the cost.

    >>> front([3, 1, 2, 2], [0.9, 0.5, 0.4, 0.6])
    [1, 3, 0]
    """
    best, kept = -math.inf, []
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], -values[index])):
        if values[index] > best:
            best = values[index]
            kept.append(index)
    return kept
