"""What runs show: the leaderboard in the terminal, and a folder with one HTML page that opens offline, its figures and its tables."""

from __future__ import annotations

import base64
import importlib.resources
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.analysis.comparison import Comparison, compare_runs
from experiments.analysis.cost import COSTS
from experiments.analysis.format import chance, count, number, percent, points
from experiments.analysis.labels import labels
from experiments.analysis.leaderboard import LeaderboardEntry
from experiments.analysis.statistics import Estimate
from experiments.reporting import figures, tables, text
from experiments.reporting.figure_list import SECTIONS, pictures
from experiments.reporting.table import Sheet, as_csv, as_latex
from fedsam.overrides import flatten
from fedsam.results.rows import Run
from fedsam.results.store import Results

BOARDS = (
    tables.leaderboard,
    tables.equal,
    tables.to_target,
    tables.generalization,
    tables.spread,
    tables.flatness,
    tables.flatness_errors,
    tables.correlations,
    tables.costs,
    tables.runs,
)


def leaderboard(results: Results, runs: Sequence[Run], baseline: str | None = None, target_accuracy: float | None = None) -> Table:
    """The leaderboard for a terminal of 80 columns; below it how to read it, and what is unfinished. Raises as `compare_runs`."""
    found = compare_runs(results, runs, baseline, target_accuracy)
    lines = found.lines
    cells = [_cells(found, line) for line in lines]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), header_style="bold", title=text.alarm(runs) or None, title_style="bold red")
    columns = [column for column in cells[0] if any(row[column] for row in cells)]
    for column in columns:
        named = column == "method"
        table.add_column(column, justify="left" if named else "right", overflow="fold", no_wrap=not named, min_width=8 if named else None)
    best = tables.best(lines)
    for place, row in enumerate(cells):
        table.add_row(*(escape(row[column] or "–") for column in columns), style="bold" if place in best else "")
    unfinished = [f"{line.label}, {line.clients} clients: {line.status}." for line in lines if line.status != "finished"]
    words = [*text.notes(found), text.on_differences(found), *unfinished]
    table.caption = escape("\n".join(filter(None, words)))
    table.caption_justify = "left"
    return table


def _cells(found: Comparison, line: LeaderboardEntry) -> dict[str, str]:
    """A line as a terminal shows it, by column; a column that is empty for all lines is not shown."""
    key = line.key
    versus, reached = found.versus.get(key), found.reached.get(key)
    loss = line.measures.get("test_loss")
    shown = {name: COSTS[name].show(line.costs[name]).replace(" ", "") for name in line.costs if name in COSTS}
    base = found.baseline if len(found.baseline) <= 6 else "base"
    to_target = reached.spent.get("gradient_evaluations") if reached and found.wanted is not None else None
    return {
        "method": line.label,
        "clients": str(line.clients),
        "accuracy\n(%)": percent(line.accuracy).removesuffix(" %"),
        "loss": number(Estimate(loss.mean, None)) if loss and not found.versus else "",
        f"above {base}\n(points)": points(versus.difference) if versus else "",
        "p": chance(versus.adjusted) if versus and versus.adjusted is not None else "",
        "gradient\nevals": shown.get("gradient_evaluations", ""),
        f"evals to\n{tables.target(found)}": count(to_target.mean).replace(" ", "") if to_target else "",
        "bytes": shown.get("bytes", ""),
        "client\ntime": shown.get("client_seconds", ""),
        "wall\ntime": shown.get("wall_seconds", "") if found.wanted is None else "",
    }


@dataclass(frozen=True)
class Shown:
    """A figure as the page shows it."""

    name: str
    caption: str
    source: str


def write_report(
    results: Results, runs: Sequence[Run], target: Path, baseline: str | None = None, target_accuracy: float | None = None
) -> Path:
    """Write a report to the folder `target`, and give the path of its page, `report.html`, which opens without a network.

    Beside it lie `figures/*.png` and `*.svg`, and each table as `tables/*.csv` and `*.tex`. Raises as `compare_runs`.
    """
    found = compare_runs(results, runs, baseline, target_accuracy)
    for folder in ("figures", "tables"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    sections: dict[str, list[Shown]] = {section: [] for section in SECTIONS}
    for picture in pictures(found):
        (target / "figures" / f"{picture.name}.png").write_bytes(figures.encode(picture.figure, "png"))
        drawn = figures.encode(picture.figure, "svg")
        (target / "figures" / f"{picture.name}.svg").write_bytes(drawn)
        source = f"data:image/svg+xml;base64,{base64.b64encode(drawn).decode()}"
        sections[picture.section].append(Shown(picture.name, picture.caption, source))
    sheets = {sheet.name: sheet for sheet in (board(found) for board in BOARDS)}
    for name, sheet in sheets.items():
        if len(sheet.columns) > 2:
            (target / "tables" / f"{name}.csv").write_text(as_csv(sheet), encoding="utf-8")
            (target / "tables" / f"{name}.tex").write_text(as_latex(sheet), encoding="utf-8")
    path = target / "report.html"
    path.write_text(_page(found, sheets, sections), encoding="utf-8")
    return path


def _page(found: Comparison, sheets: Mapping[str, Sheet], sections: Mapping[str, Sequence[Shown]]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((importlib.resources.files("experiments.reporting") / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        alarm=text.alarm(found.runs),
        question=text.question(found),
        findings=text.findings(found),
        notes=text.notes(found),
        on_differences=text.on_differences(found),
        on_prices=text.on_prices(found),
        on_target=text.on_target(found),
        setup=text.setup(found),
        origin=text.origin(found.runs),
        sheets=sheets,
        figures=sections,
        runs=list(_details(found)),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _details(found: Comparison) -> Iterator[dict[str, Any]]:
    """Each run with its label and settings."""
    names = labels(found.runs)
    for run in found.runs:
        lines = (f"{key} = {_toml(value)}" for key, value in flatten(run.config).items())
        yield {"run": run, "label": names[run.id], "settings": "\n".join(lines)}


def _toml(value: object) -> str:
    """A value as TOML, which writes plain values as JSON does, infinity and NaN apart."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value, ensure_ascii=False)
