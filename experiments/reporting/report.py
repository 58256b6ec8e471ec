"""The report of runs: a folder with one HTML page that opens offline, its figures and its tables."""

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

from experiments.analysis.comparison import Comparison, compare_runs
from experiments.analysis.labels import labels
from experiments.reporting import figures, settings_text, text
from experiments.reporting.figure_list import SECTIONS, report_figures
from experiments.reporting.table import ResultTable, as_csv, as_latex
from experiments.reporting.tables import TABLES
from fedsam.overrides import flatten
from fedsam.results.rows import Run
from fedsam.results.store import Results


@dataclass(frozen=True)
class EmbeddedFigure:
    """A figure inside the page.

    Attributes:
        name: Its id in the page.
        caption: Plain text.
        source: The SVG as a data URL.
    """

    name: str
    caption: str
    source: str


def write_report(
    results: Results, runs: Sequence[Run], target: Path, baseline: str | None = None, target_accuracy: float | None = None
) -> Path:
    """Write a report to the folder `target` and return the path of its page, `report.html`, which needs no network.

    The folder also gets `figures/*.png` and `*.svg`, and each table as `tables/*.csv` and `*.tex`. Raises as `compare_runs`.
    """
    comparison = compare_runs(results, runs, baseline, target_accuracy)
    for folder in ("figures", "tables"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    sections = _write_figures(comparison, target / "figures")
    tables = {table.name: table for table in (make(comparison) for make in TABLES)}
    for name, table in tables.items():
        if len(table.columns) > 2:
            (target / "tables" / f"{name}.csv").write_text(as_csv(table), encoding="utf-8")
            (target / "tables" / f"{name}.tex").write_text(as_latex(table), encoding="utf-8")
    path = target / "report.html"
    path.write_text(_page(comparison, tables, sections), encoding="utf-8")
    return path


def _write_figures(comparison: Comparison, folder: Path) -> dict[str, list[EmbeddedFigure]]:
    """Write every figure as PNG and SVG, and return them by section."""
    sections: dict[str, list[EmbeddedFigure]] = {section: [] for section in SECTIONS}
    for drawn in report_figures(comparison):
        (folder / f"{drawn.name}.png").write_bytes(figures.encode(drawn.figure, "png"))
        svg = figures.encode(drawn.figure, "svg")
        (folder / f"{drawn.name}.svg").write_bytes(svg)
        source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
        sections[drawn.section].append(EmbeddedFigure(drawn.name, drawn.caption, source))
    return sections


def _page(comparison: Comparison, tables: Mapping[str, ResultTable], sections: Mapping[str, Sequence[EmbeddedFigure]]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((importlib.resources.files("experiments.reporting") / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        fallback_warning=text.fallback_warning(comparison.runs),
        question=text.question(comparison),
        findings=text.findings(comparison),
        notes=text.notes(comparison),
        significance_note=text.significance_note(comparison),
        equal_cost_note=text.equal_cost_note(comparison),
        target_note=text.target_note(comparison),
        setup=settings_text.setup(comparison),
        provenance=settings_text.provenance(comparison.runs),
        tables=tables,
        figures=sections,
        runs=list(_details(comparison)),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _details(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Each run with its label and settings."""
    names = labels(comparison.runs)
    for run in comparison.runs:
        lines = (f"{key} = {_toml(value)}" for key, value in flatten(run.config).items())
        yield {"run": run, "label": names[run.id], "settings": "\n".join(lines)}


def _toml(value: object) -> str:
    """A value as TOML, which writes plain values as JSON does, infinity and NaN apart."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value, ensure_ascii=False)
