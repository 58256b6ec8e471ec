"""Tables as the page draws them, and values as it shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.watching.curves import Point
from experiments.watching.index import IndexedRun
from fedsam.formatting import duration, printable

Cell = str | dict[str, Any]  # a text, or one with `tone`, `bar` (0 to 1), `line` (number of a curve's style), `href` or `hint`


def table(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], **more: Any) -> dict[str, Any]:
    """A table of the page; a column whose title begins with `>` is aligned to the right."""
    return {"name": name, "title": title, "columns": list(columns), "rows": [list(row) for row in rows], **more}


def page_of(entries: Sequence[Any], page: int, size: int) -> tuple[Sequence[Any], dict[str, int]]:
    """The entries of a page, the last one where there are fewer, and what the page says of pages."""
    pages = max(1, math.ceil(len(entries) / size))
    page = min(max(1, page), pages)
    return entries[(page - 1) * size : page * size], {"page": page, "pages": pages, "total": len(entries)}


def status_cell(status: str) -> Cell:
    """A status in its colour."""
    return {"text": status, "tone": status}


def statuses_cell(statuses: Mapping[str, int]) -> Cell:
    """Numbers of runs by status."""
    return {"chips": [{"text": f"{number} {status}", "tone": status} for status, number in sorted(statuses.items())]}


def progress_cell(run: IndexedRun, rounds: int, fraction: float) -> Cell:
    """Rounds, with a bar where more of them may come."""
    text = f"{rounds}" if run.rounds is None or run.budget else f"{rounds}/{run.rounds}"
    return {"text": text, "bar": fraction} if run.status in ("running", "interrupted") else text


def value_text(value: float | None, measure: str) -> str:
    """A measure: accuracies in percent."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    return f"{100 * value:.2f} %" if is_accuracy(measure) else f"{value:.4g}"


def estimate_text(points: Sequence[Point], measure: str) -> str:
    """The last mean of a curve with its interval."""
    if not points:
        return "–"
    _, mean, half, _ = points[-1]
    text = value_text(mean, measure)
    if half is None or not math.isfinite(half) or not math.isfinite(mean):
        return text
    return f"{text.removesuffix(' %')} ± {100 * half:.2f} %" if is_accuracy(measure) else f"{text} ± {half:.2g}"


def is_accuracy(measure: str) -> bool:
    """Whether a measure is a fraction that is shown in percent."""
    return "accuracy" in measure or measure == "gap"


def eta_text(seconds: float | None) -> str:
    """A remaining time."""
    return "–" if seconds is None else duration(seconds)


def number_text(value: float | None, digits: int = 1) -> str:
    """A number with so many digits after the point."""
    return "–" if value is None else f"{value:.{digits}f}"


def time_text(text: str | None) -> Cell:
    """A time of the results, which the page shows in its own time zone."""
    return {"time": text} if text else "–"


def error_text(text: str | None) -> str:
    """The first line of an error, in full where it is short."""
    line = printable((text or "").strip().partition("\n")[0])
    return line if len(line) <= 300 else f"{line[:300]}…"


def plain_points(points: Sequence[Point]) -> list[list[float | int | None]]:
    """Points as JSON has them, which knows no NaN."""
    return [[round, _finite(mean), _finite(half), seeds] for round, mean, half, seeds in points]


def _finite(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
