"""Dead runs: at chance level or not finite, named with their likely cause, and no ground for claims."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients.optimizers import base
from experiments.analysis import dead_runs
from experiments.analysis.comparison import compare_runs
from experiments.analysis.dead_runs import chance_level, is_dead
from experiments.reporting.tables import leaderboard
from experiments.reporting.text import findings
from fedsam.results.store import Results
from tests.support.recorded import SAM, add, everything


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def test_the_level_is_the_share_of_the_largest_class_with_two_standard_errors() -> None:
    assert chance_level("cifar10", np.full((3, 10), 7)) == pytest.approx(0.1 + 2 * 0.003)
    assert chance_level("mine", np.array([[80, 0], [0, 20]])) == pytest.approx(0.8 + 2 * math.sqrt(0.16 / 20))
    assert chance_level("digits", np.zeros((2, 4), int)) == pytest.approx(0.25 + 2 * math.sqrt(0.1875 / 355))


def test_what_is_dead() -> None:
    assert is_dead({"test_accuracy": 0.11}, 0.11) and is_dead({"test_accuracy": math.nan}, 0.11)
    assert is_dead({"validation_accuracy": 0.1}, 0.11) and not is_dead({"test_accuracy": 0.12, "validation_accuracy": 0.1}, 0.11)
    assert not is_dead({}, 0.11)


def test_radii_are_those_of_the_optimizers() -> None:
    assert dead_runs.RADII == base.RADII


def test_a_method_at_chance_is_named_with_its_cause(results: Results) -> None:
    for seed in (0, 1):
        add(results, [0.5], seed=seed)
        add(results, [0.1], seed=seed, client__optimizer=SAM | {"rho": 0.7})
    add(results, [0.1], seed=0, client__optimizer={"name": "esam"})
    add(results, [0.5], seed=1, client__optimizer={"name": "esam"})
    found = compare_runs(results, results.runs())
    assert [(entry.label, entry.shown_status) for entry in found.entries] == [
        ("sgd", "finished"),
        ("esam", "1 of 2 runs at chance"),
        ("sam", "at chance"),
    ]
    assert (
        "sam with 4 clients: at chance. What it shows is no property of the method; likely cause: client.optimizer.rho: 0.7 may"
        in (findings(found)[-1])
    )
    table = leaderboard(found)
    (status,) = (place for place, column in enumerate(table.columns) if column.key == "status")
    assert [row[status] for row in table.rows] == [None, "1 of 2 runs at chance", "at chance"]
    assert ("sam", 4) in found.ranks  # the accuracy is what it is


def test_where_no_method_learns_none_is_blamed(results: Results) -> None:
    add(results, [0.1])
    add(results, [0.1], client__optimizer=SAM)
    (said,) = (sentence for sentence in findings(compare_runs(results, results.runs())) if "did not learn" in sentence)
    assert said.startswith("Every method with 4 clients has runs that did not learn (sgd: at chance; sam: at chance)")
    assert "too few rounds" in said and "rho" not in said


def test_a_diverged_run_is_named_once_with_its_cause(results: Results) -> None:
    add(results, [0.5])
    add(results, [0.3, math.nan], status="diverged", client__optimizer=SAM)
    found = compare_runs(results, results.runs())
    assert found.entries[-1].shown_status == found.entries[-1].status == "diverged in round 3"
    assert "likely cause: client.optimizer.rho: 0.05 may be too large" in findings(found)[-1]


def test_a_method_at_chance_is_not_the_flattest(results: Results) -> None:
    for place, method in enumerate(("sgd", "sam", "esam", "asam", "gsam")):
        accuracy = 0.1 if method == "gsam" else 0.5 + place / 100
        add(results, [accuracy], measures=everything(1.0 - place / 10), client__optimizer={"name": method})
    found = compare_runs(results, results.runs()).correlation("hessian_top_1", 4)
    assert found is not None and found.methods == 4 and found.rho == pytest.approx(-1)
