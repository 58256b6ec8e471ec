"""The section on tuning: choices, warnings and figures, for studies with known trials."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.comparison import Comparison, compare_runs
from experiments.reporting.tuning import choices, edge_findings, tuning_figures
from fedsam.results.store import Results
from fedsam.results.tuning import Study, Trial
from tests.support.recorded import SAM, add

LR, RHO = "client.optimizer.lr", "client.optimizer.rho"
SPACE = {LR: {"low": 0.01, "high": 1.0, "log": True}, RHO: [0.01, 0.05, 0.1]}


def trial(number: int, parameters: dict[str, Any], value: float | None, *, pruned: bool = False) -> Trial:
    return Trial(number=number, parameters=parameters, runs=(f"trial-{number}",), value=value, pruned=pruned)


def study(label: str, trials: Sequence[Trial], runs: Sequence[str], metric: str = "validation_accuracy") -> Study:
    settings = {"trials": len(trials), "metric": metric, "rounds": 10, "seeds": [1000], "space": SPACE}
    return Study(id=label, label=label, settings=settings, trials=tuple(trials), runs=tuple(runs))


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def tuned(results: Results, monkeypatch: pytest.MonkeyPatch, *, loss: bool = False) -> Comparison:
    """SGD, chosen within its range, and SAM, chosen at the end of one."""
    sgd = [add(results, [0.5], seed=seed) for seed in (0, 1)]
    sam = [add(results, [0.6], seed=seed, client__optimizer=SAM) for seed in (0, 1)]
    scale = -1.0 if loss else 1.0
    metric = "validation_loss" if loss else "validation_accuracy"
    worst = math.inf if loss else 0.0
    found = [
        study("sgd", [trial(1, {LR: 0.02}, 0.3 * scale), trial(2, {LR: 0.1}, 0.6 * scale), trial(3, {LR: 0.9}, worst)], sgd, metric),
        study(
            "sam",
            [
                trial(1, {LR: 0.1, RHO: 0.05}, 0.5 * scale),
                trial(2, {LR: 0.05, RHO: 0.01}, 0.2 * scale, pruned=True),
                trial(3, {LR: 0.08, RHO: 0.1}, 0.7 * scale),
                trial(4, {LR: 0.08, RHO: 0.1}, None),
            ],
            sam,
            metric,
        ),
    ]
    monkeypatch.setattr(Results, "studies", lambda self, runs: [one for one in found if set(one.runs) & set(runs)], raising=False)
    return compare_runs(results, results.runs())


def test_choices_are_listed_with_their_warnings(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = tuned(results, monkeypatch)
    table = choices(comparison)
    assert table.cells() == [
        ["sgd", "4", "lr=0.1", "60.00 %", "3", "0", "–"],
        ["sam", "4", "lr=0.08, rho=0.1", "70.00 %", "4", "1", "rho"],
    ]
    (warning,) = edge_findings(comparison)
    assert warning.endswith("a better value may lie outside: sam with 4 clients (rho).")


def test_a_choice_for_several_numbers_of_clients_is_shown_once_with_that_of_its_trials(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [add(results, [0.5], data__clients=clients) for clients in (4, 8, 16)]
    one = study("sgd", [trial(1, {LR: 0.02}, 0.3), trial(2, {LR: 0.1}, 0.9)], runs)
    shared = replace(one, settings={**one.settings, "at": {"data.clients": 8}})
    monkeypatch.setattr(Results, "studies", lambda self, runs: [shared], raising=False)
    comparison = compare_runs(results, results.runs())
    assert [row[:2] for row in choices(comparison).cells()] == [["sgd", "8"]]
    responses, effort = tuning_figures(comparison, "")
    assert responses.name == "tuning-validation-accuracy-8-clients"
    (axes,) = effort.draw().axes
    assert axes.get_ylim()[0] > 80  # the first trial, far below, does not make the others flat


def test_nothing_is_shown_where_nothing_was_tuned(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    add(results, [0.5])
    monkeypatch.setattr(Results, "studies", lambda self, runs: [], raising=False)
    comparison = compare_runs(results, results.runs())
    assert not choices(comparison).rows and not edge_findings(comparison) and not list(tuning_figures(comparison, ""))


@pytest.mark.parametrize("loss", [False, True])
def test_figures_show_each_trial_once_and_the_best_so_far(results: Results, monkeypatch: pytest.MonkeyPatch, loss: bool) -> None:
    responses, effort = tuning_figures(tuned(results, monkeypatch, loss=loss), "")
    lr, rho = responses.draw().axes
    assert (lr.get_xlabel(), lr.get_xscale(), rho.get_xlabel(), rho.get_xscale()) == ("lr", "log", "rho", "linear")
    assert sum(line.get_marker() == "x" for line in lr.get_lines()) == 2  # one pruned, one diverged
    assert sum(line.get_markersize() == 6 for line in rho.get_lines()) == 1  # the choice of SAM; SGD has no radius
    (axes,) = effort.draw().axes
    scale = -1 if loss else 100
    sgd, sam = ([(float(x), float(y)) for x, y in line.get_xydata()] for line in axes.get_lines())
    assert sgd == [(1, pytest.approx(0.3 * scale)), (2, pytest.approx(0.6 * scale)), (3, pytest.approx(0.6 * scale))]
    assert sam == [(1, pytest.approx(0.5 * scale)), (3, pytest.approx(0.7 * scale))]
    assert "number of trials of 10 rounds" in effort.caption
