"""The numbers of the leaderboard, against scipy and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.report import notes
from fedsam.results import Results
from tests.recorded import SAM, add, lines_of


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def test_final_accuracy_is_the_mean_of_the_last_evaluations(results: Results) -> None:
    add(results, [0.1, 0.2, None, 0.3, 0.4, 0.5, None, 0.6])
    (line,) = lines_of(results)
    assert line.last == 5
    assert line.accuracy is not None
    assert line.accuracy.mean == pytest.approx(0.4)
    assert line.accuracy.half_width is None
    assert line.costs == {
        "gradient_evaluations": 800,
        "forward_evaluations": 56,
        "bytes_down": 8000,
        "bytes_up": 4000,
        "client_seconds": 16.0,
        "wall_seconds": 8.0,
    }


def test_fewer_evaluations_average_fewer(results: Results) -> None:
    add(results, [0.1, 0.2, 0.3], seed=0)
    add(results, [None, 0.2, 0.4], seed=1)
    (line,) = lines_of(results)
    assert line.last == 2
    assert dict(line.finals) == pytest.approx({0: 0.25, 1: 0.3})
    assert "mean of the last 2 evaluations" in notes([line])[0]


def test_interval_is_that_of_student(results: Results) -> None:
    values = [0.3, 0.5, 0.55, 0.45]
    for seed, value in enumerate(values):
        add(results, [value], seed=seed)
    (line,) = lines_of(results)
    assert line.accuracy is not None and line.accuracy.half_width is not None
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert line.accuracy.mean == pytest.approx((low + high) / 2)
    assert line.accuracy.half_width == pytest.approx((high - low) / 2)
    assert "95 % t-interval over seeds" in " ".join(notes([line]))


def test_best_accuracy_comes_first_within_a_client_count(results: Results) -> None:
    for clients in (8, 4):
        add(results, [0.5], data__clients=clients)
        add(results, [0.6], data__clients=clients, client__optimizer=SAM)
        add(results, [0.9], data__clients=clients, client__optimizer={"name": "esam"}, status="failed")
    assert [(line.clients, line.label) for line in lines_of(results)] == [(n, name) for n in (4, 8) for name in ("sam", "sgd", "esam")]
    assert [line.status for line in lines_of(results)][2] == "failed after round 1 of 8"
