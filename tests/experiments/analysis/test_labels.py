"""Labels of runs: short, and different where the runs are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.analysis.conditions import condition_text, run_conditions
from experiments.analysis.labels import label, labels
from fedsam.results.store import Results
from tests.support.recorded import SAM, add


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def test_labels_say_what_varies(results: Results) -> None:
    add(results, [0.1])
    add(results, [0.1], client__optimizer=SAM)
    assert list(labels(results.runs()).values()) == ["sgd", "sam"]
    add(results, [0.1], client__optimizer=SAM | {"rho": 0.2}, seed=3)
    assert list(labels(results.runs()).values()) == ["sgd", "sam(rho=0.05)", "sam(rho=0.2)"]
    add(results, [0.1], client__correction="scaffold", client__epochs=2, data__clients=9)
    names = ["sgd × none", "sam(rho=0.05) × none", "sam(rho=0.2) × none", "sgd × scaffold"]
    assert list(labels(results.runs()).values()) == [f"{name}, epochs={1 + (i == 3)}" for i, name in enumerate(names)]


def test_names_are_labels_and_are_told_apart(results: Results) -> None:
    add(results, [0.1], name="mine", client__optimizer=SAM)
    add(results, [0.1], name="yours")
    assert list(labels(results.runs()).values()) == ["mine", "yours"]
    add(results, [0.1], name="mine", client__optimizer=SAM | {"rho": 0.2})
    assert list(labels(results.runs()).values()) == ["mine, sam(rho=0.05)", "yours", "mine, sam(rho=0.2)"]


def test_a_fallback_dataset_is_another_condition(results: Results) -> None:
    add(results, [0.1])
    add(results, [0.9], dataset="digits")
    assert list(labels(results.runs()).values()) == ["sgd", "sgd"]
    assert [condition_text(one) for one in run_conditions(results.runs()).values()] == ["4 clients, cifar10", "4 clients, digits"]


def test_label_of_a_single_run_is_its_optimizer() -> None:
    alone = {"client.optimizer.name": "sam", "client.optimizer.rho": 0.1}
    assert label(alone, [alone]) == "sam"


def test_a_cohort_that_goes_with_the_number_of_clients_makes_no_other_method(results: Results) -> None:
    for clients, cohort in ((10, 5), (50, 20)):
        add(results, [0.1], data__clients=clients, server__participation=cohort, compute__actors=clients)
    assert set(labels(results.runs()).values()) == {"sgd"}
    add(results, [0.1], data__clients=50, server__participation=5)
    assert list(labels(results.runs()).values()) == ["sgd, participation=5", "sgd, participation=20", "sgd, participation=5"]
