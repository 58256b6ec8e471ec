"""Power: what so many seeds can show, against published tables and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.analysis.power import half_width, least_p, power, smallest_difference, sufficient_seeds
from experiments.analysis.statistics import Estimate, holm_correction, sign_flip_test


@pytest.mark.parametrize("methods", [1, 2, 7])
def test_the_least_p_is_that_of_the_test_at_its_best(methods: int) -> None:
    p_values = {method: sign_flip_test([0.1, 0.2, 0.3, 0.4, 0.5]) for method in range(methods)}
    assert min(holm_correction(p_values).values()) == least_p(5, methods) == min(1, methods * 0.0625)


@pytest.mark.parametrize("methods", range(1, 40))
def test_so_many_seeds_suffice_and_one_less_does_not(methods: int) -> None:
    seeds = sufficient_seeds(methods)
    assert least_p(seeds, methods) <= 0.05 < least_p(seeds - 1, methods)


def test_the_half_width_is_that_of_the_estimate() -> None:
    values = [0.1, 0.4, 0.2, 0.3]
    for methods in (1, 5):
        expected = Estimate.of(values, comparisons=methods).half_width
        assert half_width(float(np.std(values, ddof=1)), 4, methods) == pytest.approx(expected)
    assert half_width(1.0, 3) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # t of 2 degrees of freedom


def test_the_simultaneous_interval_is_bonferronis() -> None:
    expected = stats.t.ppf(1 - 0.05 / (2 * 7), df=2)
    assert Estimate.of([1.0, 2.0, 3.0], comparisons=7).half_width == pytest.approx(expected / 3**0.5)


def test_power_is_known() -> None:
    assert power(0.5, 1.0, 34) == pytest.approx(0.808, abs=1e-3)  # Cohen: 34 pairs for a medium effect at 80 %
    assert power(0.0, 1.0, 10) == pytest.approx(0.025)
    assert smallest_difference(0.02, 34) == pytest.approx(0.02 * 0.4949, rel=1e-2)
    for seeds, methods in ((2, 1), (2, 9), (5, 3), (30, 1)):
        assert power(smallest_difference(0.7, seeds, methods), 0.7, seeds, methods) == pytest.approx(0.8)
    assert smallest_difference(0.0, 5) == 0


def test_power_is_the_share_of_simulated_tests() -> None:
    draws = np.random.default_rng(0).normal(1.2, 1.0, size=(20_000, 6))
    found = np.mean(stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05 / 3)
    assert power(1.2, 1.0, 6, 3) == pytest.approx(float(found), abs=0.01)
