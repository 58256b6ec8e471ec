"""How figures look: one journal column wide (3.3 inches), a colour, marker and dash for each method, the legend below the axes.

Colours are those of Okabe and Ito, which people with colour-blindness can tell apart, without yellow, which is hard to see on white, and
with a violet that lies far from all of them in normal and in colour-blind sight. Methods after the eighth have other dashes and fills.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from experiments.analysis.cost import Cost

Drawn = ParamSpec("Drawn")

WIDTH = 3.3  # inches
DPI = 300
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F1FE0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
INK, SOFT, FAINT, ALARM = "#222222", "#777777", "#dddddd", "#b00020"
STYLE: Any = {  # the keys are matplotlib's own type, hundreds of literals
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "figure.titlesize": 7,
    "figure.titleweight": "bold",
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.width": 0.4,
    "xtick.minor.size": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "svg.hashsalt": "fedsam",  # the same report twice is the same file
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every figure."""

    color: str
    marker: str
    linestyle: Any
    fillstyle: Literal["full", "none"]

    @property
    def point(self) -> dict[str, Any]:
        """As a point without a line."""
        return {"color": self.color, "marker": self.marker, "linestyle": "", "fillstyle": self.fillstyle}

    @property
    def line(self) -> dict[str, Any]:
        """As a line with points."""
        return self.point | {"linestyle": self.linestyle}


Looks = Mapping[str, Look]  # by method


def looks(methods: Sequence[str]) -> Looks:
    """A look for each method, by its place among all methods of the report."""
    looks = {}
    for place, method in enumerate(methods):
        again, first = divmod(place, len(COLOURS))
        looks[method] = Look(COLOURS[first], MARKERS[first], DASHES[again % len(DASHES)], "none" if again else "full")
    return looks


def styled(draw: Callable[Drawn, Figure]) -> Callable[Drawn, Figure]:
    """`draw` in our style, whatever the user's own settings are."""

    @wraps(draw)
    def drawn(*args: Drawn.args, **kwargs: Drawn.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def panels(
    titles: Sequence[str],
    shown: Looks,
    *,
    title: str,
    columns: int = 1,
    height: float = 1.6,
    kind: Literal["line", "point"] = "line",
    shared: bool = False,
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """Empty axes, one for each of `titles`, above a legend of the methods `shown`, which covers no data.

    Args:
        title: A warning above all, or nothing.
        height: Inches of a row of axes; the legend comes on top of that.
        shared: Whether all have one x axis, labelled below the last.
    """
    rows = -(-len(titles) // columns)
    entries = [Line2D([], [], label=textwrap.fill(label, 52), **getattr(look, kind)) for label, look in shown.items()]
    across, lines = _layout(entries)
    figure = Figure(figsize=(WIDTH, height * rows + 0.3 + 0.15 * lines + 0.15 * bool(title)), layout="constrained")
    if entries:
        figure.legend(handles=_by_row(entries, across), loc="outside lower center", ncols=across, frameon=False, handlelength=2.8)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=shared, **subplots).flatten()
    for axes in grid[len(titles) :]:
        axes.remove()
    for axes, name in zip(grid, titles, strict=False):
        axes.set_title(name)
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
    if title:
        figure.suptitle(title, color=ALARM)
    return figure, list(grid[: len(titles)])


def _layout(entries: Sequence[Line2D]) -> tuple[int, int]:
    """Columns and lines of text of a legend."""
    texts = [str(entry.get_label()) for entry in entries] or [""]
    longest = max(len(line) for text in texts for line in text.splitlines() or [""])
    across = min(len(texts), 4 if longest <= 6 else 3 if longest <= 12 else 2 if longest <= 23 else 1)
    return across, sum(max(1 + text.count("\n") for text in texts[i : i + across]) for i in range(0, len(texts), across))


def _by_row(entries: Sequence[Line2D], across: int) -> list[Line2D]:
    """In the order that makes matplotlib, which fills columns, fill rows."""
    filled = [*entries, *[Line2D([], [], linestyle="", label=" ")] * (-len(entries) % across)]
    return [entry for column in range(across) for entry in filled[column::across]]


def cost_axis(axis: Axis, cost: Cost, largest: float) -> float:
    """Label and tick an axis of a cost; gives what to divide values by, since seconds become minutes or hours.

    Args:
        largest: The largest value that will be drawn.
    """
    unit, length = "", 1.0
    if cost.unit == "s":
        unit, length = ("h", 3600.0) if largest > 7200 else ("min", 60.0) if largest > 120 else ("s", 1.0)
    axis.set_label_text(f"{cost.title} ({unit})" if unit else cost.title)
    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=cost.title == "rounds"))
    if not unit and largest >= 1000:
        axis.set_major_formatter(EngFormatter(unit=cost.unit if cost.unit == "B" else "", sep=" "))
    return length


def cost_panels(
    cost: Cost, largest: Mapping[int, float], shown: Looks, *, title: str, kind: Literal["line", "point"] = "line"
) -> tuple[Figure, dict[int, tuple[Axes, float]]]:
    """A panel of accuracy against a cost for each client count, with what to divide its costs by.

    They share one x axis unless their costs are too far apart for that.

    Args:
        largest: The largest cost of each client count.
    """
    counts = sorted(largest)
    shared = max(largest.values()) < 4 * min(largest.values())
    height = 1.9 if len(counts) == 1 else 1.45 if shared else 1.7
    figure, grid = panels(by_count(counts), shown, title=title, height=height, kind=kind, shared=shared)
    found = {}
    for clients, axes in zip(counts, grid, strict=True):
        length = cost_axis(axes.xaxis, cost, max(largest.values()) if shared else largest[clients])
        axes.set_ylabel("test accuracy (%)")
        if shared and axes is not grid[-1]:
            axes.set_xlabel("")
        found[clients] = (axes, length)
    return figure, found


def by_count(counts: Sequence[int]) -> list[str]:
    """The titles of one panel for each client count; none where there is one count."""
    return [f"{clients} clients" for clients in counts] if len(counts) > 1 else [""]


def count_axis(axes: Axes, counts: Sequence[int]) -> None:
    """An x axis of client counts, which are its ticks."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{count:,}".replace(",", "\u202f") for count in counts])
    axes.set_xlabel("clients")
    axes.margins(x=0.12)


def dodged(methods: Iterable[str]) -> dict[str, float]:
    """Factors that move the points of methods apart on a logarithmic axis."""
    names = list(methods)
    return {name: 1.03 ** (place - (len(names) - 1) / 2) for place, name in enumerate(names)}


def percents(axes: Axes) -> None:
    """Keep a y axis of percents, once all is drawn, within what accuracies can be: intervals of few seeds go beyond."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))


def finite(values: Sequence[float]) -> list[float]:
    """The values that can be drawn."""
    return [value for value in values if np.isfinite(value)]


@rc_context(STYLE)
def encode(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as a file: PNG at 300 dots per inch, or SVG with its letters as outlines; the first call fixes its layout."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, facecolor="white", metadata={"Date": None} if kind == "svg" else {"Software": None})
    figure.set_layout_engine("none")
    return buffer.getvalue()
