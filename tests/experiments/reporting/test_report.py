"""The report: what it says of rows, and a page that opens offline whatever state the runs are in."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
import re
import shutil
import sqlite3
import subprocess
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console
from scipy import stats

from experiments.analysis.comparison import compare_runs
from experiments.reporting import figures
from experiments.reporting.console import leaderboard_table
from experiments.reporting.figure_list import report_figures
from experiments.reporting.report import ReportError, write_report
from experiments.reporting.settings_text import OFFICIAL, setup
from experiments.reporting.text import findings
from fedsam.config import parse
from fedsam.data import datasets
from fedsam.results.store import Results
from tests.support.processes import HANG
from tests.support.recorded import SAM, add, compare, lines_of

no_figures = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def empty_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, but their files are empty: to encode them takes most of the time, and test_figures.py does it with each kind."""
    monkeypatch.setattr(figures, "encode", lambda figure, kind: b"")


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def terminal(results: Results, width: int = 80, **options: Any) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(leaderboard_table(results, results.runs(), **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines(folder: Path, table: str) -> list[dict[str, str]]:
    """The rows of a table of a report."""
    return list(csv.DictReader(io.StringIO((folder / "tables" / f"{table}.csv").read_text(encoding="utf-8"))))


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
    assert (line.seeds, line.excluded_runs, line.status) == ((0,), 2, "finished")
    assert line.final_accuracies == {0: 0.2}
    assert "Not counted: 2 runs" in terminal(results)


def test_findings_compare_seed_by_seed(results: Results) -> None:
    for seed, luck in enumerate((0.0, 0.2, 0.1)):
        add(results, [0.3 + luck], seed=seed)
        add(results, [0.35 + luck + seed / 1000], seed=seed, client__optimizer=SAM, evaluations=200)
    sentence, *_ = findings(compare_runs(results, results.runs()))
    width = 100 * stats.t.ppf(0.975, 2) * np.std([0.05, 0.051, 0.052], ddof=1) / math.sqrt(3)
    assert f"5.10 ± {width:.2f} points above sgd, the baseline, with 2.00 times as many gradient evaluations." in sentence


def test_findings_admit_chance(results: Results) -> None:
    for seed, (first, second) in enumerate(((0.3, 0.5), (0.5, 0.3), (0.4, 0.41))):
        add(results, [first], seed=seed)
        add(results, [second], seed=seed, client__optimizer=SAM)
    assert (
        "the interval contains zero: may be chance), with as many gradient evaluations"
        in findings(compare_runs(results, results.runs()))[0]
    )
    add(results, [0.3], data__clients=9)
    add(results, [0.2], data__clients=9, client__optimizer=SAM)
    assert "10.00 points above sam (one seed: may be chance)" in findings(compare_runs(results, results.runs()))[1]


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
    drawn = {"accuracy-rounds", "accuracy-gradient-evaluations", "accuracy-wall-seconds", "accuracy-bytes", "accuracy-clients"}
    drawn |= {"accuracy-clients-equal-cost", "costs-clients", "front-gradient-evaluations"}
    drawn |= {"holdings-1-4-clients", "holdings-2-120-clients", "test-loss-rounds", "train-loss-rounds"}
    for kind in ("png", "svg"):
        assert {path.stem for path in (tmp_path / "out" / "figures").glob(f"*.{kind}")} == drawn
    assert {attributes["id"] for tag, attributes in page.tags if tag == "figure"} == drawn
    assert "Which of sgd and sam generalizes best when 4 and 120 clients share cifar10" in page.words
    assert "The first 100 of 120 clients are shown" in page.words
    assert "abc123" in page.words and "torch 2.9" in page.words and "fedsam run <a>.toml" in page.words
    assert all(run.id in page.words for run in results.runs())


def test_report_twice_is_the_same_but_for_its_date_with_figures_one_column_wide(results: Results, tmp_path: Path) -> None:
    add(results, [0.2, 0.5])
    pages = [write_report(results, results.runs(), tmp_path / name).read_text() for name in ("a", "b")]
    first, second = (re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page) for page in pages)
    assert first == second
    for png in (tmp_path / "a" / "figures").glob("*.png"):
        assert imread(png).shape[1] == 990  # at 300 dots per inch
    for image in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", first):
        assert b"<svg" in base64.b64decode(image)
    assert not [tag for tag in Page(tmp_path / "a" / "report.html").tags if tag[1].get("role") == "alert"]


@no_figures
def test_settings_in_the_page_are_toml_that_gives_the_run_again(results: Results, tmp_path: Path) -> None:
    add(results, [0.5], client__optimizer=SAM, data__augment=["crop", "flip"], name='a "name"')
    text = write_report(results, results.runs(), tmp_path).read_text()
    found = re.search(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert found
    settings = tomllib.loads(found.group(1).replace("&#34;", '"'))
    assert settings == results.runs()[0].config
    parse(settings)


@no_figures
def test_text_of_runs_is_escaped(results: Results, tmp_path: Path) -> None:
    add(results, [0.5], name="<b>&[red]x[/red]", error="<script>alert(1)</script>", status="failed")
    page = Page(write_report(results, results.runs(), tmp_path))
    assert "<script>alert(1)</script>" in page.text and "script" not in [tag for tag, _ in page.tags]
    assert "<b>&[red]x[/red]" in "".join(terminal(results, 200).split("\n"))


NAMES = ["_sam", "cost $5 or $6", r"$\rho_{bad$ 100% & <b>#1</b>", "αβ 中文", ":bug: \x1b[31m"]


@pytest.mark.usefixtures("empty_figures")
def test_names_are_text_everywhere(results: Results, tmp_path: Path) -> None:
    for lr, name in enumerate(NAMES, 1):
        add(results, [0.2, lr / 10], name=name, client__optimizer={"name": "sgd", "lr": lr})
    page = Page(write_report(results, results.runs(), tmp_path))
    shown = [name.replace("\x1b", r"\x1b") for name in NAMES]
    said = re.sub(r"\s", "", terminal(results, 200))
    for name in shown:
        assert name in page.text
        assert name.replace(" ", "") in said
    assert "\x1b" not in page.text and "\x1b" not in said
    assert "b" not in [tag for tag, _ in page.tags]
    font = "No font of this machine has"
    assert (font in page.words) == bool(figures.undrawable("αβ 中文"))


def test_a_figure_that_cannot_be_drawn_is_named_and_the_rest_is_written(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("ParseSyntaxException")

    add(results, [0.2, 0.5])
    monkeypatch.setattr(figures, "loss_curves", fail)
    with pytest.raises(ReportError, match=r"figure test-loss-rounds could not be drawn \(ValueError: ParseSyntaxException\); figure train"):
        write_report(results, results.runs(), tmp_path)
    page = Page(tmp_path / "report.html")
    assert "Figures that could not be drawn: test-loss-rounds (ValueError: ParseSyntaxException); train-loss-rounds" in page.words
    drawn = {kind: {path.stem for path in (tmp_path / "figures").glob(f"*.{kind}")} for kind in ("png", "svg", "pdf")}
    assert drawn["png"] == drawn["svg"] == drawn["pdf"] >= {"accuracy-rounds", "holdings-1-4-clients"}
    assert all(path.read_bytes().startswith(b"%PDF") for path in (tmp_path / "figures").glob("*.pdf"))
    assert (tmp_path / "tables" / "leaderboard.csv").is_file()


@no_figures
def test_the_gap_is_the_difference_of_the_numbers_beside_it(results: Results, tmp_path: Path) -> None:
    add(results, [0.1, 0.2, 0.26, 0.3, 0.3, 0.3236], measures={"union_accuracy": 0.3202, "union_loss": 1.5})
    write_report(results, results.runs(), tmp_path)
    (row,) = lines(tmp_path, "generalization")
    assert float(row["gap"]) == pytest.approx(float(row["union_accuracy"]) - float(row["last_test_accuracy"])) == pytest.approx(-0.0034)
    assert float(row["loss_gap"]) == pytest.approx(float(row["last_test_loss"]) - float(row["union_loss"]))
    (leader,) = lines(tmp_path, "leaderboard")
    assert float(leader["test_accuracy"]) == float(row["test_accuracy"]) == pytest.approx(np.mean([0.2, 0.26, 0.3, 0.3, 0.3236]))


def test_the_set_up_says_how_many_examples_and_which_augmentation(results: Results) -> None:
    add(results, [0.5], data__examples=100)
    run = add(results, [0.5], data__examples=50, data__augment=[])
    counts = int(results.label_distribution(run).sum())
    facts = dict(setup(compare_runs(results, results.runs())))
    assert facts["Training examples"] == [f"{counts} of 50,000, drawn by seed"]
    assert facts["Augmentation"] == ["crop and flip", "none"]
    assert set(OFFICIAL) == set(datasets.DATASETS)
    digits = datasets.load("digits")
    assert OFFICIAL["digits"] == (len(digits.train.y), digits.augment)


@pytest.mark.usefixtures("empty_figures")
def test_each_class_has_its_accuracy(results: Results, tmp_path: Path) -> None:
    of_class = {f"class_accuracy_{kind}": kind / 10 for kind in range(10)}
    add(results, [0.45], measures=of_class)
    add(results, [0.5], measures=of_class, client__optimizer=SAM)
    page = Page(write_report(results, results.runs(), tmp_path))
    rows = lines(tmp_path, "class-accuracy")
    assert [(row["method"], row["class"], float(row["accuracy"])) for row in rows[:2]] == [("sgd", "a", 0.0), ("sgd", "b", 0.1)]
    assert len(rows) == 20 and "class-accuracy" in [attributes.get("id") for tag, attributes in page.tags if tag == "figure"]


@no_figures
def test_a_shared_machine_is_told(results: Results, tmp_path: Path) -> None:
    first = add(results, [0.5])
    assert "The machine was shared" not in terminal(results)
    results.record_other_cpu(first, 0.3)
    assert "The machine was shared (other programs took up to 30 % of its CPU time)" in " ".join(terminal(results).split())
    before, after = results.runs()[0].started, "2999-01-01T00:00:00+00:00"
    add(results, [0.5], client__optimizer=SAM)
    with sqlite3.connect(results.path) as connection:
        connection.execute("UPDATE runs SET started = ?, finished = ?", (before, after))
    connection.close()
    assert "2 runs of 2 went on beside another run" in Page(write_report(results, results.runs(), tmp_path)).words


@no_figures
def test_another_dataset_than_wanted_is_said_loudly(results: Results, tmp_path: Path) -> None:
    add(results, [0.5], dataset="digits")
    page = Page(write_report(results, results.runs(), tmp_path))
    alarm = "NOT cifar10: digits was used instead"
    assert alarm in page.words and ("p", {"class": "alarm", "role": "alert"}) in page.tags
    assert alarm in terminal(results)
    for picture in report_figures(compare_runs(results, results.runs())):
        assert picture.draw().get_suptitle() == alarm


def test_diverged_failed_interrupted_and_empty_runs_are_all_listed(results: Results, tmp_path: Path) -> None:
    add(results, [0.3, math.nan, math.nan], losses=math.nan, seed=0)
    add(results, [0.3, 0.4], status="failed", client__optimizer=SAM, error="client 3 diverged")
    add(results, [], status="interrupted", client__optimizer={"name": "esam"})
    add(results, [None], status="running", client__optimizer={"name": "asam"})
    add(results, [0.3, 0.4], status="diverged", client__optimizer={"name": "fsam"}, error="client 7 in round 3 sent a non-finite delta")
    add(results, [], status="diverged", client__optimizer={"name": "gsam"}, error="client 8 in round 1 sent a non-finite delta")
    page = Page(write_report(results, results.runs(), tmp_path))
    assert [line.is_ranked for line in lines_of(results)] == [False] * 6
    expected = (
        "diverged",
        "failed after round 2 of 8",
        "interrupted after round 0 of 8",
        "running after round 1 of 8",
        "client 3 diverged",
        "diverged in round 3",
        "client 7 in round 3 sent a non-finite delta",
        "diverged in round 1",
    )
    for words in (*expected, "no run has finished with a finite accuracy"):
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
    for piece in ("sam(rho=", "55.00 ± 63.53", "−15.00 ± 63.53", " 1 ", "123k", "1.50kB", "2.00s", "1.00s"):
        assert piece in text
    assert "…" not in text


@pytest.mark.usefixtures("empty_figures")
def test_everything_measured_is_shown(results: Results, tmp_path: Path) -> None:
    compare(results, ["sgd", "sam", "esam", "msam"], [4, 9], [0, 1], rounds=3)
    page = Page(write_report(results, results.runs(), tmp_path, baseline="esam", target_accuracy=0.3))
    tables = {"leaderboard", "equal-cost", "time-to-target", "generalization", "clients", "flatness", "flatness-errors"}
    tables |= {"flatness-correlations", "costs", "runs", "interaction", "mean-ranks"}
    assert {attributes["id"] for tag, attributes in page.tags if tag == "table"} == {f"table-{name}" for name in tables}
    for kind in ("csv", "tex"):
        assert {path.stem for path in (tmp_path / "tables").glob(f"*.{kind}")} == tables
    drawn = {attributes["id"] for tag, attributes in page.tags if tag == "figure"}
    costs = {"gradient-evaluations", "flops", "client-seconds"}
    assert {f"front-{cost}" for cost in costs} | {"loss-line", "loss-plane-4-clients", "flatness-9-clients", "client-accuracy"} <= drawn
    assert "accuracy-simulated-seconds" in drawn and "front-bytes" not in drawn
    expected = (
        "above esam (points)",
        "evaluations to 30 %",
        "All methods of a client count spent the same bytes and simulated time: no front.",
        "Sharpness goes with generalization within one recipe only",
        "No difference from esam can be shown at the 5 % level: sign flips of 2 seeds, corrected for 3 methods, give p = 1 at best.",
        "Target: 30 % test accuracy.",
        "eigen- value 5",
        "train",
    )
    for words in expected:
        assert words in page.words
    assert "Not measured" not in page.words


@no_figures
def test_what_was_not_measured_is_said_where_it_is_missed(results: Results, tmp_path: Path) -> None:
    add(results, [0.5])
    page = Page(write_report(results, results.runs(), tmp_path))
    assert "Not measured: the gap between training and test" in page.words
    assert "Not measured. measure.flatness.measures" in page.words
    shown = {attributes["id"] for tag, attributes in page.tags if tag == "table"}
    assert shown == {f"table-{name}" for name in ("leaderboard", "time-to-target", "generalization", "costs", "runs")}
    for words in ("p (Holm)", "worst-case", "energy", "FLOPs", "simulated", "Number of clients", "peak device"):
        assert words not in page.words.partition("What each run came to")[0]


def test_the_target_is_a_column_of_the_terminal(results: Results) -> None:
    for seed in (0, 1):
        add(results, [0.2, 0.5], seed=seed, evaluations=123_456)
        add(results, [0.2, 0.3], seed=seed, client__optimizer=SAM)
    lines = terminal(results, target_accuracy=0.45).splitlines()
    assert any("50 %" not in line and "45 %" in line for line in lines)
    assert [next(line for line in lines if line.startswith(f" {name} ")).split()[-3] for name in ("sgd", "sam")] == ["247k", "–"]
    assert max(map(len, lines)) <= 80


CHECKS = """
<script>
addEventListener("load", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  const images = [...document.images], root = document.documentElement;
  const asked = performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:"));
  const missing = images.filter(image => !image.naturalWidth || !image.getBoundingClientRect().width).map(image => image.alt);
  const overflow = root.scrollWidth - root.clientWidth;
  document.title = JSON.stringify({images: images.length, missing, asked, width: innerWidth, overflow});
});
</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 500])  # Chromium's windows are not narrower than 500
def test_page_in_a_browser(results: Results, tmp_path: Path, width: int) -> None:
    """Every image is drawn, nothing is fetched, no message in the console, and the page is as wide as the window."""
    compare(results, ["sgd", "sam", "esam", "multistep_sam"], [4, 9, 200], [0, 1], rounds=4)
    path = write_report(results, results.runs(), tmp_path)
    checked = tmp_path / "checked.html"
    checked.write_text(path.read_text().replace("</body>", f"{CHECKS}</body>"))
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "this test needs chromium"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    options += [f"--window-size={width},900", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([browser, *options, checked.as_uri()], capture_output=True, text=True, timeout=HANG, check=True)
    found = json.loads(html.unescape(re.findall(r"<title>(.*?)</title>", done.stdout)[0]))
    assert found == {"images": len(list((tmp_path / "figures").glob("*.svg"))), "missing": [], "asked": [], "width": width, "overflow": 0}
    assert "CONSOLE" not in done.stderr
