"""Power: what a number of seeds can show, before the runs are made.

`scipy.stats` takes a second to import, so only what needs it does.
"""

from __future__ import annotations

import itertools
import math

from experiments.analysis.statistics import SIGNIFICANCE_LEVEL, smallest_p

POWER = 0.8  # probability of finding a difference that is there


def least_p(seeds: int, methods: int = 1) -> float:
    """The smallest p-value of the sign-flip test for n seeds, the smallest of m with Holm's correction over m methods.

    >>> least_p(5), round(least_p(5, 7), 4)
    (0.0625, 0.4375)
    """
    return min(1.0, methods * smallest_p(seeds))


def sufficient_seeds(methods: int = 1, level: float = SIGNIFICANCE_LEVEL) -> int:
    """The fewest seeds with which the smallest p-value of `least_p` is at most the level.

    >>> sufficient_seeds(), sufficient_seeds(7)
    (6, 9)
    """
    return next(seeds for seeds in itertools.count(1) if least_p(seeds, methods) <= level)


def half_width(deviation: float, seeds: int, methods: int = 1) -> float:
    """Half-width of the 95 % interval of a difference paired by seed, simultaneous over m methods (Bonferroni's t).

    Args:
        deviation: Standard deviation of the paired difference over seeds; of two methods whose accuracies have the same deviation s and are
            independent it is s times the root of 2, and less the more the pairing tells.
        seeds: At least 2.
    """
    from scipy import stats

    return float(stats.t.isf(SIGNIFICANCE_LEVEL / 2 / methods, seeds - 1)) * deviation / math.sqrt(seeds)


def power(difference: float, deviation: float, seeds: int, methods: int = 1) -> float:
    """Probability that the paired t-test at the 5 % level, Bonferroni-corrected over m methods, finds a true difference, with its sign.

    From the noncentral t distribution; arguments as of `half_width`.
    """
    from scipy import stats

    limit, noncentrality = stats.t.isf(SIGNIFICANCE_LEVEL / 2 / methods, seeds - 1), abs(difference) / deviation * math.sqrt(seeds)
    return float(stats.nct.sf(limit, seeds - 1, noncentrality))


def smallest_difference(deviation: float, seeds: int, methods: int = 1) -> float:
    """The true difference that the test of `power` finds with a probability of 80 %, in units of the deviation's."""
    if not deviation:
        return 0.0
    from scipy import optimize

    width = half_width(deviation, seeds, methods)
    return float(optimize.brentq(lambda difference: power(difference, deviation, seeds, methods) - POWER, 0.0, 10 * width))
