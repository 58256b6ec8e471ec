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
from experiments.analysis.conditions import condition_text, run_conditions
from experiments.reporting import figures, inference, settings_text, text, tuning
from experiments.reporting.figure_list import SECTIONS, report_figures
from experiments.reporting.published import NOTE as PUBLISHED_NOTE
from experiments.reporting.published import published_beside_measured
from experiments.reporting.table import ResultTable, as_csv, as_latex
from experiments.reporting.tables import TABLES
from fedsam.overrides import flatten
from fedsam.results.rows import Run
from fedsam.results.store import Results


class ReportError(RuntimeError):
    """Some figures could not be drawn; the rest of the report is written.

    Attributes:
        path: The page.
    """

    def __init__(self, path: Path, not_drawn: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"figure {name} could not be drawn ({reason})" for name, reason in not_drawn.items()))
        self.path = path


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

    The folder also gets `figures/*.png`, `*.svg` and `*.pdf`, and each table as `tables/*.csv` and `*.tex`.

    Raises:
        ConfigError: As `compare_runs`.
        ReportError: Figures could not be drawn; everything else is written.
        OSError: The folder cannot be written.
    """
    comparison = compare_runs(results, runs, baseline, target_accuracy)
    for folder in ("figures", "tables"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    sections, not_drawn = _write_figures(comparison, target / "figures")
    makers = (*TABLES, *inference.TABLES, published_beside_measured, tuning.choices)
    tables = {table.name: table for table in (make(comparison) for make in makers)}
    for name, table in tables.items():
        if len(table.columns) > 2:
            (target / "tables" / f"{name}.csv").write_text(as_csv(table), encoding="utf-8")
            (target / "tables" / f"{name}.tex").write_text(as_latex(table), encoding="utf-8")
    path = target / "report.html"
    page = _page(comparison, tables, sections, not_drawn)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # a path may hold bytes that are no characters
    if not_drawn:
        raise ReportError(path, not_drawn)
    return path


def _write_figures(comparison: Comparison, folder: Path) -> tuple[dict[str, list[EmbeddedFigure]], dict[str, str]]:
    """Write every figure in every format; the figures by section, and why others could not be drawn, by name."""
    sections: dict[str, list[EmbeddedFigure]] = {section: [] for section in SECTIONS}
    not_drawn = {}
    for one in report_figures(comparison):
        try:
            figure = one.draw()
            encoded = {kind: figures.encode(figure, kind) for kind in figures.FORMATS}
        except Exception as error:
            not_drawn[one.name] = f"{type(error).__name__}: {error}"
            continue
        for kind, content in encoded.items():
            (folder / f"{one.name}.{kind}").write_bytes(content)
        source = f"data:image/svg+xml;base64,{base64.b64encode(encoded['svg']).decode()}"
        sections[one.section].append(EmbeddedFigure(one.name, one.caption, source))
    return sections, not_drawn


def _page(
    comparison: Comparison,
    tables: Mapping[str, ResultTable],
    sections: Mapping[str, Sequence[EmbeddedFigure]],
    not_drawn: Mapping[str, str],
) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((importlib.resources.files("experiments.reporting") / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        fallback_warning=text.fallback_warning(comparison.runs),
        question=text.question(comparison),
        baseline=comparison.baseline,
        findings=[*text.findings(comparison), *tuning.edge_findings(comparison)],
        notes=text.notes(comparison),
        significance_note=text.significance_note(comparison),
        equal_cost_note=text.equal_cost_note(comparison),
        target_note=text.target_note(comparison),
        published_note=PUBLISHED_NOTE,
        setup=settings_text.setup(comparison),
        provenance=settings_text.provenance(comparison.runs),
        tables=tables,
        figures=sections,
        not_drawn=not_drawn,
        undrawable=figures.undrawable("".join(comparison.methods)),
        runs=list(_details(comparison)),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _details(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Each run with its label, condition and settings."""
    where = run_conditions(comparison.runs)
    for run in comparison.runs:
        lines = (f"{key} = {_toml(value)}" for key, value in flatten(run.config).items())
        yield {"run": run, "label": comparison.labels[run.id], "condition": condition_text(where[run.id]), "settings": "\n".join(lines)}


def _toml(value: object) -> str:
    """A value as TOML, which writes plain values as JSON does, infinity and NaN apart."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value, ensure_ascii=False)
