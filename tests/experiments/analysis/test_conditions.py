"""Conditions: methods are compared on the same data with the same number of clients alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.comparison import compare_runs
from experiments.analysis.conditions import Condition, DataSetting, condition_name, condition_text, run_conditions
from experiments.reporting.figure_list import report_figures
from experiments.reporting.inference import interaction_findings
from experiments.reporting.tables import leaderboard
from experiments.reporting.text import findings, question
from fedsam.results.store import Results
from tests.support.recorded import SAM, SGD, add


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def skewed(alpha: float) -> dict[str, Any]:
    return {"data__partition": {"name": "dirichlet", "alpha": alpha}}


def grid(results: Results, seeds: int, gap: float, per_tenfold: float = 0.0, per_skew: float = 0.0) -> None:
    """SGD and SAM with 4 and 40 clients on two skews, SAM above by the gap and its changes."""
    for place, alpha in enumerate((10.0, 0.1)):
        for clients in (4, 40):
            for seed in range(seeds):
                luck, more = 0.01 * seed + 0.1 * place, math.log10(clients / 4)
                settings = skewed(alpha) | {"data__clients": clients, "seed": seed}
                add(results, [0.4 + luck], **settings)
                add(results, [0.4 + luck + gap + per_tenfold * more + per_skew * place], client__optimizer=SAM, **settings)


def test_a_condition_is_its_number_of_clients_where_data_are_the_same() -> None:
    assert Condition(4) == 4 and hash(Condition(4)) == hash(4) and {4: "a"}[Condition(4)] == "a"
    low, high = DataSetting(0, "alpha=0.1", True), DataSetting(1, "alpha=1", True)
    assert Condition(4, low) != 4 and Condition(4, low) != Condition(4, high) and Condition(4, low) == Condition(4, low)
    ordered = [Condition(4, low), Condition(40, low), Condition(4, high)]
    assert sorted(reversed(ordered)) == ordered and max(ordered) == ordered[-1] and ordered[0] <= ordered[1] and ordered[2] >= ordered[1]
    assert condition_name(ordered[2]) == "4-clients-data-2" and condition_text(1) == "1 client"


def test_only_methods_on_the_same_data_are_compared(results: Results) -> None:
    grid(results, 3, gap=0.1)
    found = compare_runs(results, results.runs())
    assert found.methods == ["sgd", "sam"] and found.baseline == "sgd"
    texts = [condition_text(clients) for clients in found.conditions]
    assert texts == [f"{n} clients, dirichlet(alpha={alpha})" for alpha in (0.1, 10.0) for n in (4, 40)]
    assert found.client_counts == [4, 40]
    assert {key: test.difference.mean for key, test in found.paired_tests.items()} == {
        ("sam", n): pytest.approx(0.1) for n in found.conditions
    }
    assert [found.targets[n] for n in found.conditions] == pytest.approx([0.51, 0.51, 0.41, 0.41])
    assert found.ranks == {(label, n): rank for label, rank in (("sgd", 2), ("sam", 1)) for n in found.conditions}
    assert found.mean_ranks == {"sgd": 2, "sam": 1}
    assert "share cifar10 (dirichlet(alpha=0.1); dirichlet(alpha=10.0)), and" in question(found)
    assert any(one.startswith("With 40 clients, dirichlet(alpha=10.0), sam is first of 2") for one in findings(found))
    table = leaderboard(found)
    assert [column.key for column in table.columns][:4] == ["rank", "method", "clients", "data"]
    assert table.block_starts == {2, 4, 6} and table.best_rows == {0, 2, 4, 6}


def test_every_condition_has_its_figures(results: Results) -> None:
    grid(results, 1, gap=0.1)
    named = {one.name: one for one in report_figures(compare_runs(results, results.runs()))}
    panels = named["accuracy-clients"].draw().axes
    assert [axes.get_title(loc="left") for axes in panels if axes.has_data()] == ["dirichlet(alpha=0.1)", "dirichlet(alpha=10.0)"]
    assert {"costs-clients-data-1", "costs-clients-data-2"} <= set(named)
    assert sum(axes.has_data() for axes in named["accuracy-rounds"].draw().axes) == 4


def test_data_settings_that_vary_are_named(results: Results) -> None:
    add(results, [0.5], data__examples=100)
    add(results, [0.5], data__examples=20)
    texts = [condition_text(one) for one in sorted(run_conditions(results.runs()).values())]
    assert texts == ["4 clients, examples=20", "4 clients, examples=100"]


def test_the_change_of_the_gap_with_clients_and_skew_is_known(results: Results) -> None:
    grid(results, 6, gap=0.1, per_tenfold=0.02, per_skew=-0.03)
    found = compare_runs(results, results.runs())
    clients, data = found.interactions
    assert (clients.label, clients.along, clients.seeds, clients.change.mean) == ("sam", "clients", 6, pytest.approx(0.02))
    assert (data.along, data.change.mean) == ("data", pytest.approx(0.03))  # from skewed, where SAM loses 3 points, to even
    assert clients.p_value == clients.adjusted_p_value == 2 / 64
    first, second = interaction_findings(found)
    assert first == (
        "The gap to sgd changes with the number of clients, for ten times as many clients, 4 to 40: +2.00 ± 0.00 points (sam, p = 0.031)."
    )
    assert second.startswith("The gap to sgd changes with the data, from dirichlet(alpha=0.1) to dirichlet(alpha=10.0): +3.00")


def test_few_seeds_show_no_interaction_and_that_is_said(results: Results) -> None:
    grid(results, 3, gap=0.1, per_tenfold=0.02)
    (said, _) = interaction_findings(compare_runs(results, results.runs()))
    assert "is not shown to change with the number of clients" in said and "nor can it with 3 seeds, whose smallest p is 0.25" in said


def test_a_method_that_lacks_a_condition_has_no_interaction(results: Results) -> None:
    grid(results, 2, gap=0.1)
    add(results, [0.5], client__optimizer=SGD | {"name": "asam"}, **skewed(0.1))
    assert {one.label for one in compare_runs(results, results.runs()).interactions} == {"sam"}


def test_the_slope_is_that_of_least_squares(results: Results) -> None:
    gaps = {1: 0.10, 10: 0.13, 100: 0.10}  # no trend
    for clients, gap in gaps.items():
        for seed in range(2):
            add(results, [0.4], data__clients=clients, seed=seed)
            add(results, [0.4 + gap + 0.01 * seed * math.log10(clients)], data__clients=clients, seed=seed, client__optimizer=SAM)
    (one,) = compare_runs(results, results.runs()).interactions
    assert one.change.mean == pytest.approx(0.005)  # of the seeds: 0 and 0.01
    assert one.change.half_width == pytest.approx(12.7062 * 0.005, rel=1e-4)
