"""A figure of a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        section: The one of the report that it stands in.
        name: Stem of its file names.
        caption: Plain text.
        draw: Draws it.
    """

    section: str
    name: str
    caption: str
    draw: Callable[[], Figure]
