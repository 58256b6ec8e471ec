"""Comparisons: the baseline, differences and their tests, ranks, targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.analysis.comparison import compare_runs
from experiments.reporting.text import findings, notes, significance_note, target_note
from fedsam.config import ConfigError
from fedsam.results.store import Results
from tests.support.recorded import SAM, SGD, add

ESAM = {"name": "esam"}


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def test_baseline_is_sgd_else_fedavg_else_the_first(results: Results) -> None:
    add(results, [0.1], client__optimizer=SAM)
    assert compare_runs(results, results.runs()).baseline == "sam"
    add(results, [0.1], name="FedAvg", client__optimizer=ESAM)
    assert compare_runs(results, results.runs()).baseline == "FedAvg"
    add(results, [0.1], client__optimizer=SGD)
    assert compare_runs(results, results.runs()).baseline == "sgd"


def test_baseline_may_have_settings(results: Results) -> None:
    for lr in (0.1, 0.2):
        add(results, [0.1], client__optimizer=SAM | {"lr": lr})
        add(results, [0.1], client__optimizer=SGD | {"lr": lr})
    assert compare_runs(results, results.runs()).baseline == "sgd(lr=0.1)"


def test_baseline_by_label(results: Results) -> None:
    add(results, [0.1])
    add(results, [0.3], client__optimizer=SAM)
    (versus,) = compare_runs(results, results.runs(), baseline="sam").paired_tests.values()
    assert versus.difference.mean == pytest.approx(-0.2)
    with pytest.raises(ConfigError, match=r"baseline: 'adam' is not known; allowed: sgd; sam"):
        compare_runs(results, results.runs(), baseline="adam")


def test_differences_are_paired_tested_and_corrected(results: Results) -> None:
    for seed, luck in enumerate((0.0, 0.2, 0.1, -0.1, 0.05, 0.3, 0.15)):
        add(results, [0.3 + luck], seed=seed)
        add(results, [0.4 + luck + seed / 1000], seed=seed, client__optimizer=SAM)
        add(results, [0.3 + luck + 0.01 * (-1) ** seed], seed=seed, client__optimizer=ESAM)
    found = compare_runs(results, results.runs())
    sam, esam = found.paired_tests["sam", 4], found.paired_tests["esam", 4]
    assert sam.difference.mean == pytest.approx(0.103)
    assert (sam.p_value, sam.adjusted_p_value) == (2 / 128, 4 / 128)
    assert esam.adjusted_p_value == esam.p_value == 1
    assert found.ranks["sam", 4] == 1
    assert findings(found)[1].endswith("by sign flips with Holm's correction over methods: sam above it.")
    assert "with 7 seeds p cannot be below 0.016 before the correction" in significance_note(found)


def test_what_is_more_than_chance_is_said(results: Results) -> None:
    for seed in range(8):
        add(results, [0.3], seed=seed)
        add(results, [0.4 + seed / 1000], seed=seed, client__optimizer=SAM)
        add(results, [0.2 + seed / 1000], seed=seed, client__optimizer=ESAM)
    assert findings(compare_runs(results, results.runs()))[1].endswith("over methods: sam above it and esam below it.")


def test_few_seeds_prove_nothing_and_that_is_said(results: Results) -> None:
    for clients in (4, 9):
        for seed in range(3):
            add(results, [0.3], seed=seed, data__clients=clients)
            add(results, [0.4 + seed / 1000], seed=seed, client__optimizer=SAM, data__clients=clients)
    said = findings(compare_runs(results, results.runs()))[2]
    assert said == (
        "No difference from sgd can be shown at the 5 % level: sign flips of 3 seeds give p = 0.25 at best. "
        "Intervals that exclude zero, not corrected for 2 comparisons: sam above it with 4 clients; sam above it with 9 clients."
    )


def test_seeds_that_suffice_for_one_method_may_not_for_more(results: Results) -> None:
    for seed in range(6):
        add(results, [0.3], seed=seed)
        add(results, [0.4 + seed / 1000], seed=seed, client__optimizer=SAM)
    assert findings(compare_runs(results, results.runs()))[1].endswith("over methods: sam above it.")
    for seed in range(6):
        add(results, [0.2 + seed / 1000], seed=seed, client__optimizer=ESAM)
    assert "sign flips of 6 seeds, corrected for 2 methods, give p = 0.062 at best." in findings(compare_runs(results, results.runs()))[1]


def test_one_seed_in_common_has_no_test(results: Results) -> None:
    add(results, [0.3], seed=0)
    add(results, [0.4], seed=0, client__optimizer=SAM)
    add(results, [0.5], seed=1, client__optimizer=SAM)
    add(results, [0.5], seed=7, client__optimizer=ESAM)
    found = compare_runs(results, results.runs())
    assert list(found.paired_tests) == [("sam", 4)]
    assert found.paired_tests["sam", 4].p_value is None and found.paired_tests["sam", 4].difference.half_width is None
    assert "with one seed in common there is no test" in significance_note(found)
    assert "no seed in common with" in findings(found)[0]


def test_a_diverged_method_is_not_compared(results: Results) -> None:
    for seed in (0, 1):
        add(results, [0.3], seed=seed)
        add(results, [math.nan], seed=seed, client__optimizer=SAM)
    found = compare_runs(results, results.runs())
    assert not found.paired_tests and list(found.ranks) == [("sgd", 4)]
    assert not compare_runs(results, results.runs(), baseline="sam").paired_tests


def test_change_with_clients_is_said_for_the_extremes(results: Results) -> None:
    for clients, accuracy in ((4, 0.5), (9, 0.4)):
        add(results, [accuracy], data__clients=clients)
        add(results, [accuracy * 1.1], data__clients=clients, client__optimizer=SAM)
    assert findings(compare_runs(results, results.runs()))[-1] == (
        "From 4 to 9 clients test accuracy changes by −11.00 (sam) to −10.00 (sgd) points."
    )


def test_target_is_asked_for_or_set_or_that_of_the_weakest(results: Results) -> None:
    add(results, [0.3, 0.5])
    add(results, [0.5, 0.7], client__optimizer=SAM)
    add(results, [0.1], data__clients=9)
    found = compare_runs(results, results.runs())
    assert found.targets == {4: pytest.approx(0.4), 9: pytest.approx(0.1)} and "weakest method" in target_note(found)
    assert found.times_to_target["sam", 4].costs["rounds"].mean == 1
    add(results, [0.1], data__clients=9, client__optimizer=SAM, measure__target=0.6)
    assert compare_runs(results, results.runs()).targets == {4: 0.6, 9: 0.6}
    asked = compare_runs(results, results.runs(), target_accuracy=0.55)
    assert asked.targets == {4: 0.55, 9: 0.55} and target_note(asked).startswith("Target: 55 % test accuracy.")
    with pytest.raises(ConfigError, match="target: 55 is not allowed"):
        compare_runs(results, results.runs(), target_accuracy=55)


def test_costs_that_do_not_differ_give_no_front(results: Results) -> None:
    add(results, [0.5], evaluations=100)
    add(results, [0.5], evaluations=200, client__optimizer=SAM)
    assert compare_runs(results, results.runs()).costs_differ == {"gradient_evaluations": True, "client_seconds": False, "bytes": False}


def test_notes_say_when_rounds_differ(results: Results) -> None:
    add(results, [0.5, 0.6])
    assert not [words for words in notes(compare_runs(results, results.runs())) if "not the same rounds" in words]
    add(results, [0.5], client__optimizer=SAM)
    assert "Number of seeds: 1; of rounds: 1 and 2." in notes(compare_runs(results, results.runs()))
    assert "Numbers of rounds differ, so these are not the same rounds for all." in notes(compare_runs(results, results.runs()))
