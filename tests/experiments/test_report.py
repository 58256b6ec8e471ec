"""The report: the numbers it derives from rows, and a page that opens offline whatever state the runs are in."""

from __future__ import annotations

import base64
import io
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console
from scipy import stats

from experiments import figures, report
from experiments.report import findings, groups, label, labels, leaderboard, notes, series, summarize, write_report
from fedsam.config import override, parse
from fedsam.results import Provenance, Results, Row

PROVENANCE = Provenance(versions={"python": "3.11", "torch": "2.9"}, git_commit="abc123", device="a CPU", command="fedsam run <a>.toml")
SGD, SAM = {"name": "sgd", "lr": 0.1}, {"name": "sam", "lr": 0.1, "rho": 0.05}


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def add(
    results: Results,
    accuracies: Sequence[float | None],
    *,
    status: Any = "finished",
    dataset: str = "cifar10",
    losses: float = 1.0,
    evaluations: int = 100,
    error: str | None = None,
    **settings: Any,
) -> str:
    """A run with the given accuracy after each round (None: not evaluated); keys of `settings` have `__` for a dot."""
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    experiment = parse(override({"rounds": 8, "client": {"optimizer": SGD}, "data": {"clients": 4}}, changes))
    clients = experiment.data.clients
    counts = np.random.default_rng(0).integers(0, 9, size=(clients, 10))
    run = results.start(experiment, experiment.dump(), dataset=dataset, holdings=counts, provenance=PROVENANCE)
    for round, accuracy in enumerate(accuracies, start=1):
        measures = {} if accuracy is None else {"test_accuracy": accuracy, "test_loss": losses}
        results.append(row(run, round, measures, evaluations))
    if status != "running":
        results.finish(run, status, error)
    return run


def row(run: str, round: int, measures: dict[str, float], evaluations: int) -> Row:
    costs: dict[str, Any] = {"cohort": 2, "examples": 50, "steps": 5, "gradient_evaluations": evaluations, "forward_evaluations": 7}
    costs |= {"bytes_down": 1000, "bytes_up": 500, "peak_rss": 10**8, "client_seconds": 2.0, "wall_seconds": 1.0, "evaluate_seconds": 0.5}
    return Row(run=run, round=round, train_loss=1.0, measures=measures, **costs)


def lines_of(results: Results) -> list[report.Line]:
    return summarize(groups(results, results.runs()))


def terminal(results: Results, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(leaderboard(results, results.runs()))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Page(HTMLParser):
    """A page's tags with their attributes, and its visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


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


def test_one_seed_has_no_interval_and_says_so(results: Results) -> None:
    add(results, [0.5])
    text = terminal(results)
    assert "50.00" in text and "±" not in text
    assert "One seed: no interval" in text


def test_a_seed_counts_once_and_unfinished_runs_only_without_a_finished_one(results: Results) -> None:
    add(results, [0.1], seed=0)
    add(results, [0.2], seed=0)
    add(results, [0.9], seed=1, status="failed")
    (line,) = lines_of(results)
    assert (line.seeds, line.left_out, line.status) == ((0,), 2, "finished")
    assert line.finals == {0: 0.2}
    assert "Not counted: 2 runs" in terminal(results)


def test_best_accuracy_comes_first_within_a_client_count(results: Results) -> None:
    for clients in (8, 4):
        add(results, [0.5], data__clients=clients)
        add(results, [0.6], data__clients=clients, client__optimizer=SAM)
        add(results, [0.9], data__clients=clients, client__optimizer={"name": "esam"}, status="failed")
    assert [(line.clients, line.label) for line in lines_of(results)] == [(n, name) for n in (4, 8) for name in ("sam", "sgd", "esam")]
    assert [line.status for line in lines_of(results)][2] == "failed after round 1 of 8"


def test_findings_compare_seed_by_seed(results: Results) -> None:
    for seed, luck in enumerate((0.0, 0.2, 0.1)):
        add(results, [0.3 + luck], seed=seed)
        add(results, [0.35 + luck + seed / 1000], seed=seed, client__optimizer=SAM, evaluations=200)
    (sentence,) = findings(lines_of(results))
    width = 100 * stats.t.ppf(0.975, 2) * np.std([0.05, 0.051, 0.052], ddof=1) / math.sqrt(3)
    assert f"5.10 ± {width:.2f} points above sgd, with 2.00 times as many gradient evaluations." in sentence


def test_findings_admit_chance(results: Results) -> None:
    for seed, (first, second) in enumerate(((0.3, 0.5), (0.5, 0.3), (0.4, 0.41))):
        add(results, [first], seed=seed)
        add(results, [second], seed=seed, client__optimizer=SAM)
    assert "the interval contains zero: may be chance), with as many gradient evaluations" in findings(lines_of(results))[0]
    add(results, [0.3], data__clients=9)
    add(results, [0.2], data__clients=9, client__optimizer=SAM)
    assert "10.00 points above sam (one seed: may be chance)" in findings(lines_of(results))[1]


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


def test_a_fallback_dataset_is_another_method(results: Results) -> None:
    add(results, [0.1])
    add(results, [0.9], dataset="digits")
    assert list(labels(results.runs()).values()) == ["sgd, dataset=cifar10", "sgd, dataset=digits"]


def test_label_of_a_single_run_is_its_optimizer() -> None:
    alone = {"client.optimizer.name": "sam", "client.optimizer.rho": 0.1}
    assert label(alone, [alone]) == "sam"


def test_series_have_the_rounds_that_all_seeds_have(results: Results) -> None:
    add(results, [0.1, 0.2, 0.3], seed=0, evaluations=100)
    add(results, [0.2, None, 0.5], seed=1, evaluations=300)
    held = groups(results, results.runs())
    (one,) = series(held, summarize(held))
    np.testing.assert_array_equal(one.rounds, [1, 3])
    np.testing.assert_array_equal(one.gradient_evaluations, [200, 600])
    np.testing.assert_allclose(one.accuracy, [0.15, 0.4])
    np.testing.assert_allclose(one.half_width[0], stats.t.ppf(0.975, 1) * 0.05)


def test_report_is_one_page_that_needs_no_network(results: Results, tmp_path: Path) -> None:
    for clients in (4, 120):
        for seed in (0, 1):
            add(results, [0.2, 0.5 + seed / 100], seed=seed, data__clients=clients)
            add(results, [0.3, 0.6 + seed / 90], seed=seed, data__clients=clients, client__optimizer=SAM, evaluations=200)
    path = write_report(results, results.runs(), tmp_path / "out")
    page = Page(path)
    assert path == tmp_path / "out" / "report.html"
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/svg+xml;base64,"))
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    drawn = {"accuracy-rounds", "accuracy-gradient-evaluations", "accuracy-clients", "holdings-1-4-clients", "holdings-2-120-clients"}
    assert {png.stem for png in (tmp_path / "out" / "figures").iterdir()} == drawn
    assert {attributes["id"] for tag, attributes in page.tags if tag == "figure"} == drawn
    assert "Which of sgd and sam generalizes best when 4 and 120 clients share cifar10" in page.words
    assert "The first 100 of 120 clients are shown" in page.words
    assert "abc123" in page.words and "torch 2.9" in page.words and "fedsam run <a>.toml" in page.words
    assert all(run.id in page.words for run in results.runs())


def test_report_twice_is_the_same_but_for_its_date(results: Results, tmp_path: Path) -> None:
    add(results, [0.2, 0.5])
    pages = [write_report(results, results.runs(), tmp_path / name).read_text() for name in ("a", "b")]
    first, second = (re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page) for page in pages)
    assert first == second


def test_settings_in_the_page_are_toml_that_gives_the_run_again(results: Results, tmp_path: Path) -> None:
    add(results, [0.5], client__optimizer=SAM, data__augment=["crop", "flip"], name='a "name"')
    text = write_report(results, results.runs(), tmp_path).read_text()
    found = re.search(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert found
    settings = tomllib.loads(found.group(1).replace("&#34;", '"'))
    assert settings == results.runs()[0].config
    parse(settings)


def test_text_of_runs_is_escaped(results: Results, tmp_path: Path) -> None:
    add(results, [0.5], name="<b>&[red]x[/red]", error="<script>alert(1)</script>", status="failed")
    page = Page(write_report(results, results.runs(), tmp_path))
    assert "<script>alert(1)</script>" in page.text and "script" not in [tag for tag, _ in page.tags]
    assert "<b>&[red]x[/red]" in "".join(terminal(results, 200).split("\n"))


def test_another_dataset_than_wanted_is_said_loudly(results: Results, tmp_path: Path) -> None:
    add(results, [0.5], dataset="digits")
    page = Page(write_report(results, results.runs(), tmp_path))
    alarm = "NOT cifar10: digits was used instead"
    assert alarm in page.words and ("p", {"class": "alarm", "role": "alert"}) in page.tags
    assert alarm in terminal(results)
    held = groups(results, results.runs())
    pictures = dict(report._pictures(results, results.runs(), series(held, summarize(held))))
    for figure, _ in pictures.values():
        titles = [axes.get_title() for axes in figure.axes] + [figure.get_suptitle()]
        assert alarm in titles


def test_wanted_dataset_raises_no_alarm(results: Results, tmp_path: Path) -> None:
    add(results, [0.5])
    assert not [tag for tag in Page(write_report(results, results.runs(), tmp_path)).tags if tag[1].get("role") == "alert"]


def test_diverged_failed_interrupted_and_empty_runs_are_all_listed(results: Results, tmp_path: Path) -> None:
    add(results, [0.3, math.nan, math.nan], losses=math.nan, seed=0)
    add(results, [0.3, 0.4], status="failed", client__optimizer=SAM, error="client 3 diverged")
    add(results, [], status="interrupted", client__optimizer={"name": "esam"})
    add(results, [None], status="running", client__optimizer={"name": "asam"})
    page = Page(write_report(results, results.runs(), tmp_path))
    assert [line.ranked for line in lines_of(results)] == [False] * 4
    expected = (
        "diverged",
        "failed after round 2 of 8",
        "interrupted after round 0 of 8",
        "running after round 1 of 8",
        "client 3 diverged",
    )
    for words in (*expected, "no round was finished", "no run has finished with a finite accuracy"):
        assert words in page.words
    text = terminal(results)
    assert "diverged" in text and "failed after round 2 of 8" in text


def test_nothing_evaluated_still_gives_a_page(results: Results, tmp_path: Path) -> None:
    add(results, [], status="failed", error="no memory")
    page = Page(write_report(results, results.runs(), tmp_path))
    assert [attributes["id"] for tag, attributes in page.tags if tag == "figure"] == ["holdings-1-4-clients"]


def test_a_diverged_seed_is_not_averaged_away(results: Results) -> None:
    add(results, [0.9], seed=0)
    add(results, [math.nan], seed=1)
    (line,) = lines_of(results)
    assert line.accuracy is not None and math.isnan(line.accuracy.mean)
    assert "diverged" in terminal(results)


def test_leaderboard_fits_a_terminal_of_80_columns(results: Results) -> None:
    for seed in (0, 1):
        add(results, [0.5 + seed / 10], seed=seed, evaluations=123_456, client__optimizer={"name": "sam", "rho": 0.05})
        add(results, [0.4], seed=seed, client__optimizer={"name": "sam", "rho": 0.1})
    text = terminal(results)
    for piece in ("sam(rho=", "55.00 ± 63.53", "123k", "1.00kB", "500B", "2.00s", "1.00s"):
        assert piece in text
    assert "…" not in text


def test_figures_are_one_column_wide_at_300_dots_per_inch(results: Results, tmp_path: Path) -> None:
    add(results, [0.2, 0.5])
    write_report(results, results.runs(), tmp_path)
    for png in (tmp_path / "figures").iterdir():
        assert imread(png).shape[1] == 990
    text = (tmp_path / "report.html").read_text()
    for image in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", text):
        assert b"<svg" in base64.b64decode(image)


def one(label: str, clients: int) -> figures.Series:
    rounds = np.arange(1.0, 4.0)
    return figures.Series(label, clients, rounds, 100 * rounds, rounds / 10, np.full(3, math.nan), (0.3, math.nan))


def test_a_method_has_one_colour_and_a_client_count_one_dash_in_all_figures() -> None:
    drawn = [one(label, clients) for clients in (10, 100) for label in ("sgd", "sam")]
    curves = figures.accuracy_curves(drawn, "rounds").axes[0].get_lines()
    colours = [line.get_color() for line in curves]
    assert colours == [figures.COLOURS[0], figures.COLOURS[1]] * 2
    assert [line.get_marker() for line in curves] == ["o", "o", "s", "s"]
    points = figures.accuracy_against_clients(drawn).axes[0].containers
    assert [container[0].get_color() for container in points] == colours[:2]


def test_more_methods_than_colours_are_told_apart_by_their_markers() -> None:
    drawn = [one(f"method {i}", 10) for i in range(20)]
    lines = figures.accuracy_curves(drawn, "rounds").axes[0].get_lines()
    assert len({(line.get_color(), line.get_fillstyle()) for line in lines}) == 20


def test_a_cross_ends_a_curve_that_diverged() -> None:
    series = figures.Series("sgd", 1, np.arange(1.0, 4), np.arange(3.0), np.array([0.1, 0.2, math.nan]), np.full(3, math.nan), None)
    _, cross = figures.accuracy_curves([series], "rounds").axes[0].get_lines()
    assert (cross.get_marker(), np.asarray(cross.get_xydata()).tolist()) == ("x", [[2.0, 20.0]])


def test_legend_lies_outside_the_axes() -> None:
    figure = figures.accuracy_curves([one("a method with a rather long name, and more of it", n) for n in (1, 2, 3)], "rounds")
    figures.encode(figure, "png")
    (axes,), (legend,) = figure.axes, figure.legends
    box = axes.get_tightbbox()
    assert box is not None and legend.get_window_extent().y1 <= box.y0


def test_picture_of_holdings_shows_a_hundred_clients_at_most() -> None:
    figure = figures.holdings(np.ones((250, 100), dtype=int))
    bars, cells = figure.axes[:2]
    assert len(bars.patches) == 100
    assert cells.get_xlabel() == "client (the first 100 of 250)"
    figures.encode(figures.holdings(np.zeros((1, 2), dtype=int)), "svg")
