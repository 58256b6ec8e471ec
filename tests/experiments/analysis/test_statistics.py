"""Statistics: against scipy where it has the same, by hand where it has not."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.analysis.statistics import (
    Estimate,
    holm_correction,
    interquartile_mean,
    paired_differences,
    pareto_front,
    ranks,
    sign_flip_test,
    smallest_p,
    spearman,
)

VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=8)
PS = st.dictionaries(st.integers(), st.floats(0, 1), min_size=1, max_size=9)


@settings(deadline=None)
@given(VALUES)
@example([0.594, 0.594, 0.344, 0.359, 0.312, -0.75, -0.719, -0.734])  # adds up to 0 in one order, to 1e-16 in others
def test_p_is_the_share_of_signs_that_are_as_extreme(values: list[float]) -> None:
    differences = [round(value, 3) for value in values]
    means = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((1, -1), repeat=len(differences))]
    share = np.mean([abs(mean) >= abs(sum(differences)) - 1e-9 for mean in means])
    assert sign_flip_test(differences) == pytest.approx(share)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_smallest_p_is_that_of_equal_signs(seeds: int) -> None:
    assert sign_flip_test([0.1 + 0.01 * seed for seed in range(seeds)]) == smallest_p(seeds)


def test_p_of_many_seeds_is_drawn_and_the_same_every_time() -> None:
    values = np.random.default_rng(0).normal(0.2, 1, 30).tolist()
    assert sign_flip_test(values) == sign_flip_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)


@settings(deadline=None)
@given(PS)
def test_holm_rejects_what_stepping_down_rejects(ps: dict[int, float]) -> None:
    rejected, level = set(), 0.05
    for place, key in enumerate(sorted(ps, key=lambda key: ps[key])):
        if ps[key] > level / (len(ps) - place):
            break
        rejected.add(key)
    adjusted = holm_correction(ps)
    assert list(adjusted) == list(ps)
    assert {key for key, p in adjusted.items() if p <= level} == rejected
    assert all(ps[key] <= adjusted[key] <= 1 for key in ps)


def test_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert interquartile_mean([0.1, 0.2, 0.3, 0.4]) is None
    assert interquartile_mean([9.0, 0.2, 0.3, 0.4, -9.0]) == pytest.approx(0.3)
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 70]) == pytest.approx(3.5)


def test_only_seeds_that_both_have_are_compared() -> None:
    assert paired_differences({0: 0.5, 1: 0.6, 3: 0.9}, {1: 0.5, 0: 0.1, 2: 0.7}) == pytest.approx([0.4, 0.1])


def test_an_interval_is_clear_when_zero_lies_outside() -> None:
    assert [Estimate(*pair).excludes_zero for pair in ((0.2, 0.1), (-0.2, 0.1), (0.1, 0.2), (0.1, None), (math.nan, math.nan))] == [
        *(True, True),
        *(False, False, False),
    ]


def test_rank_correlation_is_that_of_scipy() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    found, expected = spearman(x, x + y), stats.spearmanr(x, x + y)
    assert found is not None and found.methods == 12
    assert (found.rho, found.p_value) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue, abs=0.02))


def test_rank_correlation_of_four_methods_counts_all_orders() -> None:
    found = spearman([1, 2, 3, 4], [1, 2, 3, 4])
    assert found is not None and (found.rho, found.p_value) == (pytest.approx(1), pytest.approx(2 / 24))


@pytest.mark.parametrize("y", [[1, 2, 3], [1, 2, 3, math.nan], [2, 2, 2, 2]])
def test_no_rank_correlation_of_too_few_or_equal_values(y: list[float]) -> None:
    assert spearman(range(len(y)), y) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_front_dominates_all_else_and_nothing_of_itself(points: list[tuple[int, int]]) -> None:
    kept = [points[index] for index in pareto_front(*zip(*points, strict=True))]
    assert kept == sorted(kept) and [value for _, value in kept] == sorted({value for _, value in kept})
    assert all(any(cost <= c and value >= v for cost, value in kept) for c, v in points)


def test_equal_values_share_the_better_rank() -> None:
    assert ranks([0.5, 0.5, 0.9]) == [2, 2, 1]
