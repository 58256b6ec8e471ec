"""Curves over seeds, what a target took, accuracy at equal cost; by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.analysis.comparison import compare_runs
from experiments.analysis.curves import TimeToTarget, equal_costs, measure_curves, time_to_target
from experiments.analysis.leaderboard import seed_groups
from fedsam.results.store import Results
from tests.support.recorded import SAM, add, row


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def reach(results: Results, target: float) -> TimeToTarget:
    (group,) = seed_groups(results, results.runs())
    return time_to_target(group, target)


def test_series_have_the_rounds_that_all_seeds_have(results: Results) -> None:
    add(results, [0.1, 0.2, 0.3], seed=0, evaluations=100)
    add(results, [0.2, None, 0.5], seed=1, evaluations=300)
    (one,) = measure_curves(seed_groups(results, results.runs()))
    np.testing.assert_array_equal(one.costs["rounds"], [1, 3])
    np.testing.assert_array_equal(one.costs["gradient_evaluations"], [200, 600])
    np.testing.assert_array_equal(one.costs["bytes"], [1500, 4500])
    np.testing.assert_allclose(one.values, [0.15, 0.4])
    np.testing.assert_allclose(one.half_width[0], stats.t.ppf(0.975, 1) * 0.05)
    assert not {"flops", "simulated_seconds", "energy"} & set(one.costs)


def test_a_run_that_was_stopped_because_it_diverged_has_no_value_from_that_round_on(results: Results) -> None:
    run = add(results, [0.1, 0.2], status="running")
    results.append_round(row(run, 3, {"test_accuracy": 0.1, "test_loss": math.nan}, 100))
    results.finish_run(run, "diverged")
    add(results, [0.3, 0.4], status="diverged", client__optimizer=SAM)
    first, second = measure_curves(seed_groups(results, results.runs()))
    np.testing.assert_array_equal(first.values, [0.1, 0.2, math.nan])
    np.testing.assert_array_equal(second.values, [0.3, 0.4])
    assert first.diverged and second.diverged


def test_target_is_reached_at_the_first_evaluation_at_or_above_it(results: Results) -> None:
    add(results, [0.1, None, 0.4, 0.3, 0.9])
    found = reach(results, 0.4)
    assert (found.reached, found.seeds) == (1, 1)
    assert {name: estimate.mean for name, estimate in found.costs.items()} == {
        "rounds": 3,
        "gradient_evaluations": 300,
        "client_seconds": 6.0,
        "wall_seconds": 3.0,
        "bytes": 4500,
    }
    assert reach(results, 0.41).costs["rounds"].mean == 5


def test_only_runs_that_reach_the_target_count(results: Results) -> None:
    for seed, curve in enumerate(([0.5, 0.6], [0.1, 0.5], [0.1, 0.2], [0.1, math.nan])):
        add(results, curve, seed=seed)
    found = reach(results, 0.5)
    assert (found.reached, found.seeds) == (2, 4)
    assert found.costs["rounds"].mean == 1.5
    assert reach(results, 0.7).reached == 0 and not reach(results, 0.7).costs


def test_equal_cost_is_the_most_that_all_have_spent(results: Results) -> None:
    add(results, [0.1, 0.2, 0.3], evaluations=100)
    add(results, [0.2, 0.4], evaluations=250, client__optimizer=SAM)
    add(results, [0.6, 0.7], evaluations=250, client__optimizer=SAM, data__clients=9)
    at = {one.cost: one for one in equal_costs(seed_groups(results, results.runs()))}
    assert list(at) == ["rounds", "gradient_evaluations", "client_seconds", "bytes"]
    assert (at["rounds"].values, at["gradient_evaluations"].values) == ({4: 2, 9: 2}, {4: 300, 9: 500})  # by number of clients
    accuracies = [estimate.mean if estimate else None for estimate in at["rounds"].accuracy.values()]
    assert accuracies == pytest.approx([0.15, 0.3, 0.65])  # as final accuracy: the mean of the last evaluations until then
    assert [e.mean for e in at["gradient_evaluations"].accuracy.values() if e] == pytest.approx([0.2, 0.2, 0.65])


def test_methods_are_tested_at_equal_gradient_evaluations_seed_by_seed(results: Results) -> None:
    for seed in range(3):
        add(results, [0.1, 0.2 + seed / 100, 0.9], seed=seed, evaluations=100)
        add(results, [0.1, 0.9], seed=seed, evaluations=200, client__optimizer=SAM)
    comparison = compare_runs(results, results.runs())
    (test,) = comparison.tests_at_equal_cost.values()
    assert comparison.equal_costs[1].values == {4: 300}
    ours = [(0.1 + 0.2 + seed / 100 + 0.9) / 3 for seed in range(3)]
    assert test.seeds == 3 and test.difference.mean == pytest.approx(0.1 - sum(ours) / 3)
    assert test.p_value == pytest.approx(0.25)


def test_where_all_end_at_one_cost_accuracy_at_equal_cost_is_final_accuracy(results: Results) -> None:
    add(results, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9])
    add(results, [0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.1], client__optimizer=SAM)
    comparison = compare_runs(results, results.runs())
    for one in comparison.equal_costs:
        assert {key: estimate and estimate.mean for key, estimate in one.accuracy.items()} == {
            entry.key: entry.accuracy and entry.accuracy.mean for entry in comparison.entries
        }


def test_losses_have_curves(results: Results) -> None:
    add(results, [0.1, None, 0.3], losses=1.5)
    groups = seed_groups(results, results.runs())
    (test,), (train,) = (measure_curves(groups, name) for name in ("test_loss", "train_loss"))
    assert (test.costs["rounds"].tolist(), test.values.tolist()) == ([1, 3], [1.5, 1.5])
    assert (train.costs["rounds"].tolist(), train.values.tolist()) == ([1, 2, 3], [1.0, 1.0, 1.0])


def test_nothing_was_evaluated_yet_at_a_small_cost(results: Results) -> None:
    add(results, [0.5], evaluations=100)
    add(results, [None, 0.6], evaluations=100, client__optimizer=SAM)
    at = {one.cost: one.accuracy for one in equal_costs(seed_groups(results, results.runs()))}
    assert at["gradient_evaluations"]["sam", 4] is None


def test_unfinished_runs_do_not_lower_the_equal_cost(results: Results) -> None:
    add(results, [0.1, 0.2, 0.3])
    assert compare_runs(results, results.runs()).equal_costs == []
    add(results, [0.1], client__optimizer=SAM, status="failed")
    add(results, [0.1, 0.2, 0.3], data__clients=9)
    assert [one.values for one in compare_runs(results, results.runs()).equal_costs][:2] == [{4: 3, 9: 3}, {4: 300, 9: 300}]
