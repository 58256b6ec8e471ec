"""Published results beside measured ones, in the report and on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.analysis.comparison import compare_runs
from experiments.analysis.published import PublishedComparison, published_comparisons
from experiments.analysis.statistics import Estimate
from experiments.reporting.console import leaderboard_table
from experiments.reporting.report import write_report
from fedsam.results.store import Results
from tests.support.recorded import SAM, add

PUBLISHED: dict[str, Any] = {"accuracy": 78.0, "interval": 0.5, "source": "a paper, table 1"}


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def beside(results: Results) -> list[PublishedComparison]:
    return published_comparisons(compare_runs(results, results.runs()))


def test_the_difference_has_the_interval_of_the_measured(results: Results) -> None:
    finals = (0.7, 0.72, 0.74)
    for seed, final in enumerate(finals):
        add(results, [final] * 5, seed=seed, published=PUBLISHED)
        add(results, [0.5], seed=seed, client__optimizer=SAM)
    (one,) = beside(results)
    measured = Estimate.of(finals)
    assert one.entry.label == "sgd"
    assert (one.published.mean, one.published.half_width) == pytest.approx((0.78, 0.005))
    assert one.measured is not None
    assert one.difference is not None
    assert one.measured.mean == pytest.approx(0.72)
    assert (one.difference.mean, one.difference.half_width) == pytest.approx((-0.06, measured.half_width))


def test_the_best_round_is_measured_where_it_was_published(results: Results) -> None:
    add(results, [0.2, 0.8, 0.4], published=PUBLISHED | {"best_round": True})
    (one,) = beside(results)
    assert one.measured is not None
    assert one.difference is not None
    assert (one.measured.mean, one.difference.mean) == pytest.approx((0.8, 0.02))


@pytest.mark.parametrize(
    "run", [{"status": "interrupted"}, {"published": PUBLISHED | {"changed": ["rounds"]}}, {"status": "diverged"}], ids=str
)
def test_other_runs_than_the_published_ones_are_not_compared(results: Results, run: dict[str, Any]) -> None:
    add(results, [0.5], **{"published": PUBLISHED, **run})
    (one,) = beside(results)
    assert one.difference is None


def test_runs_of_a_fallback_have_no_published_result(results: Results) -> None:
    add(results, [0.5], dataset="digits", published=PUBLISHED)
    assert beside(results) == []


@pytest.mark.usefixtures("no_figures")
def test_the_report_and_the_terminal_show_both(results: Results, tmp_path: Path) -> None:
    add(results, [0.75], published=PUBLISHED)
    add(results, [0.5], client__optimizer=SAM, published=PUBLISHED | {"accuracy": 80.0, "changed": ["rounds"]})
    page = write_report(results, results.runs(), tmp_path / "report").read_text(encoding="utf-8")
    assert "Published beside measured" in page
    table = (tmp_path / "report" / "tables" / "published.csv").read_text(encoding="utf-8")
    ours, other = csv.DictReader(io.StringIO(table))
    assert (float(ours["published_accuracy"]), float(ours["measured_accuracy"])) == pytest.approx((0.78, 0.75))
    assert float(ours["difference"]) == pytest.approx(-0.03)
    assert (other["difference"], other["changed"], other["source"]) == ("", "rounds", "a paper, table 1")
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(leaderboard_table(results, results.runs()))
    assert isinstance(console.file, io.StringIO)
    text = " ".join(console.file.getvalue().split())
    assert "sgd, 4 clients: 78.00 ± 0.50 % published, measured 75.00 %: −3.00 points. a paper, table 1." in text
    assert "sam, 4 clients: 80.00 ± 0.50 % published, measured 50.00 %: not compared, as rounds differs." in text


@pytest.mark.usefixtures("no_figures")
def test_without_a_published_result_nothing_is_said_of_it(results: Results, tmp_path: Path) -> None:
    add(results, [0.75])
    assert "Published beside measured" not in write_report(results, results.runs(), tmp_path / "report").read_text(encoding="utf-8")
