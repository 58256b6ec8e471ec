"""The numbers of the leaderboard, against scipy and by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.analysis.comparison import compare_runs
from experiments.reporting.text import notes
from fedsam.results.store import Results
from tests.support.recorded import SAM, add, lines_of, row


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def test_final_accuracy_is_the_mean_of_the_last_evaluations(results: Results) -> None:
    add(results, [0.1, 0.2, None, 0.3, 0.4, 0.5, None, 0.6])
    (line,) = lines_of(results)
    assert line.evaluations_averaged == 5
    assert line.accuracy is not None
    assert line.accuracy.mean == pytest.approx(0.4)
    assert line.accuracy.half_width is None
    assert line.costs == {
        "rounds": 8,
        "gradient_evaluations": 800,
        "forward_evaluations": 56,
        "bytes_down": 8000,
        "bytes_up": 4000,
        "bytes": 12000,
        "client_seconds": 16.0,
        "wall_seconds": 8.0,
        "evaluate_seconds": 4.0,
        "rounds_per_second": 1.0,
        "examples_per_second": 50.0,
        "peak_rss": 1e8,
    }


def test_fewer_evaluations_average_fewer(results: Results) -> None:
    add(results, [0.1, 0.2, 0.3], seed=0)
    add(results, [None, 0.2, 0.4], seed=1)
    (line,) = lines_of(results)
    assert line.evaluations_averaged == 2
    assert dict(line.final_accuracies) == pytest.approx({0: 0.25, 1: 0.3})
    assert "mean of the last 2 evaluations" in " ".join(notes(compare_runs(results, results.runs())))


def test_interval_is_that_of_student(results: Results) -> None:
    values = [0.3, 0.5, 0.55, 0.45]
    for seed, value in enumerate(values):
        add(results, [value], seed=seed)
    (line,) = lines_of(results)
    assert line.accuracy is not None and line.accuracy.half_width is not None
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert line.accuracy.mean == pytest.approx((low + high) / 2)
    assert line.accuracy.half_width == pytest.approx((high - low) / 2)
    assert "95 % t-interval over seeds" in " ".join(notes(compare_runs(results, results.runs())))


def test_best_accuracy_comes_first_within_a_client_count(results: Results) -> None:
    for clients in (8, 4):
        add(results, [0.5], data__clients=clients)
        add(results, [0.6], data__clients=clients, client__optimizer=SAM)
        add(results, [0.9], data__clients=clients, client__optimizer={"name": "esam"}, status="failed")
    assert [(line.clients, line.label) for line in lines_of(results)] == [(n, name) for n in (4, 8) for name in ("sam", "sgd", "esam")]
    assert [line.status for line in lines_of(results)][2] == "failed after round 1 of 8"


def test_gaps_are_those_of_one_round_and_the_last_flatness_counts(results: Results) -> None:
    for seed in (0, 1):
        measures = {"union_accuracy": 0.9, "union_loss": 0.25, "hessian_top_1": 3.0 + seed, "calibration_error": 0.1}
        add(results, [0.4, 0.8 + seed / 100], seed=seed, measures=measures)
    (line,) = lines_of(results)
    means = {name: estimate.mean for name, estimate in line.measures.items()}
    assert means == pytest.approx(
        {
            "test_accuracy": 0.6025,
            "test_loss": 1.0,
            "union_accuracy": 0.9,
            "union_loss": 0.25,
            "last_test_accuracy": 0.805,  # of the model whose gap it is
            "last_test_loss": 1.0,
            "gap": 0.095,
            "loss_gap": 0.75,
            "hessian_top_1": 3.5,
            "calibration_error": 0.1,
        }
    )
    assert line.measures["hessian_top_1"].half_width == pytest.approx(stats.t.ppf(0.975, 1) * 0.5)


def test_a_measure_that_one_seed_lacks_is_left_out(results: Results) -> None:
    add(results, [0.4], seed=0, measures={"hessian_trace": 3.0})
    add(results, [0.4], seed=1, costs={"energy": 5.0})
    (line,) = lines_of(results)
    assert "hessian_trace" not in line.measures and "energy" not in line.costs


def test_costs_that_are_measured_are_shown(results: Results) -> None:
    run = add(results, [0.4, 0.5], costs={"energy": 5.0, "simulated_seconds": 3.0, "flops": 7, "peak_device_memory": 9})
    results.record_startup(run, 2.5)
    (line,) = lines_of(results)
    expected = {"energy": 10.0, "simulated_seconds": 6.0, "flops": 14, "peak_device_memory": 9, "startup": 2.5}
    assert {name: line.costs[name] for name in expected} == expected


def test_five_seeds_have_an_interquartile_mean(results: Results) -> None:
    for seed, accuracy in enumerate((0.1, 0.5, 0.51, 0.52, 0.9)):
        assert all(line.interquartile_mean is None for line in lines_of(results))
        add(results, [accuracy], seed=seed)
    assert [line.interquartile_mean for line in lines_of(results)] == [pytest.approx(0.51)]


def test_an_exploded_loss_is_divergence_from_its_round_on(results: Results) -> None:
    run = add(results, [0.3, 0.3], status="running", losses=2.0)
    for round in (3, 4):
        results.append_round(row(run, round, {"test_accuracy": 0.1, "test_loss": 1e26}, 100))
    results.finish_run(run, "finished")
    add(results, [0.5], client__optimizer=SAM)
    best, diverged = lines_of(results)
    assert (best.label, best.is_ranked, best.status) == ("sam", True, "finished")
    assert (diverged.status, diverged.is_ranked) == ("diverged in round 3", False)


def test_a_run_that_recovers_or_whose_last_cohort_left_has_not_diverged(results: Results) -> None:
    run = add(results, [0.1], status="running", losses=1e9)
    results.append_round(replace(row(run, 2, {}, 100), cohort=0, train_loss=math.nan))
    results.finish_run(run, "finished")
    assert [line.status for line in lines_of(results)] == ["finished"]


def test_a_run_that_was_stopped_because_it_diverged_has_no_final_figures_and_its_seed_counts(results: Results) -> None:
    add(results, [0.5, 0.6], seed=0, measures={"hessian_trace": 3.0})
    add(results, [0.4], seed=1, status="failed")
    add(results, [0.9], seed=1, status="diverged")
    add(results, [], seed=2, status="diverged")
    (line,) = lines_of(results)
    assert (line.status, line.is_ranked, line.seeds) == ("2 of 3 runs diverged in round 1 and 2", False, (0, 1, 2))
    assert line.accuracy is not None and math.isnan(line.accuracy.mean)
    assert line.final_accuracies == {
        0: pytest.approx(0.55),
        1: pytest.approx(math.nan, nan_ok=True),
        2: pytest.approx(math.nan, nan_ok=True),
    }
    assert set(line.measures) == {"test_accuracy", "test_loss"}


def test_the_share_of_diverged_seeds_is_told(results: Results) -> None:
    add(results, [0.5], seed=0)
    add(results, [0.1], seed=1, losses=math.inf)
    assert [line.status for line in lines_of(results)] == ["1 of 2 runs diverged in round 1"]
