"""The figures of a report, drawn for one journal column (3.3 inches).

A method has one colour in every figure, a client count one line style and marker. Colours are those of Okabe and Ito, which people
with colour-blindness can tell apart; yellow is left out, because it is hard to see on white.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

WIDTH = 3.3  # inches
DPI = 300
SHOWN = 100  # clients in a picture of holdings
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FILLS: tuple[Literal["full", "none", "left"], ...] = ("full", "none", "left")  # for the methods after the last colour
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, FAINT, ALARM = "#222222", "#dddddd", "#b00020"
STYLE: Any = {  # the keys are matplotlib's own type, hundreds of literals
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
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
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "svg.hashsalt": "fedsam",  # the same report twice is the same file
}


@dataclass(frozen=True)
class Series:
    """Test accuracy of one method with one client count, averaged over seeds.

    Attributes:
        rounds: The evaluated rounds that all seeds have, (R,); so are the other arrays.
        gradient_evaluations: Spent until then, mean over seeds.
        accuracy: Fractions; NaN where a run diverged.
        half_width: Of the 95 % interval over seeds; NaN when there is one seed.
        final: The accuracy that the leaderboard shows and its half-width; None when no run has finished with a finite one.
    """

    label: str
    clients: int
    rounds: NDArray[np.float64]
    gradient_evaluations: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    half_width: NDArray[np.float64]
    final: tuple[float, float] | None


@rc_context(STYLE)
def accuracy_curves(series: Sequence[Series], against: Literal["rounds", "gradient_evaluations"], title: str = "") -> Figure:
    """Test accuracy as it grows with rounds or with compute; a cross ends a curve that diverged."""
    figure, axes = _blank(_legend(series), title)
    for one in series:
        x, y, look = getattr(one, against), 100 * one.accuracy, _look(series, one)
        axes.plot(x, y, markevery=max(1, len(x) // 6), **look)
        axes.fill_between(x, y - 100 * one.half_width, y + 100 * one.half_width, color=look["color"], alpha=0.15, linewidth=0)
        finite = np.flatnonzero(np.isfinite(y))
        if 0 < len(finite) < len(y):
            axes.plot(x[finite[-1]], y[finite[-1]], "x", color=look["color"], markersize=6, markeredgewidth=1.4)
    axes.set_xlabel(against.replace("_", " "))
    axes.set_ylabel("test accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if against == "gradient_evaluations":
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    return figure


@rc_context(STYLE)
def accuracy_against_clients(series: Sequence[Series], title: str = "") -> Figure:
    """Final test accuracy of each method as the population grows; bars are 95 % intervals over seeds."""
    labels = list(dict.fromkeys(one.label for one in series))
    legend = [Line2D([], [], label=textwrap.fill(label, 52), **_method(labels, label), linestyle="-", marker="o") for label in labels]
    figure, axes = _blank([legend], title)
    for label in labels:
        points = sorted((one.clients, *one.final) for one in series if one.label == label and one.final)
        if points:
            clients, accuracy, half_width = np.array(points).T
            spread = np.nan_to_num(100 * half_width)
            axes.errorbar(clients, 100 * accuracy, spread, **_method(labels, label), marker="o", capsize=2, elinewidth=0.8)
    counts = sorted({one.clients for one in series})
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{count:,}".replace(",", "\u202f") for count in counts])
    axes.set_xlabel("clients")
    axes.set_ylabel("final test accuracy (%)")
    return figure


@rc_context(STYLE)
def holdings(counts: NDArray[np.integer[Any]], title: str = "") -> Figure:
    """Who holds what: examples of each client above, and of each class and client below.

    Args:
        counts: Examples, (clients, classes); only the first 100 clients are drawn.
    """
    shown = counts[:SHOWN]
    clients, classes = shown.shape
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    bars, cells = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
    bars.bar(np.arange(clients), shown.sum(axis=1), width=0.85, color="#777777")
    bars.set_ylabel("examples")
    bars.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    bars.tick_params(axis="x", bottom=False, labelbottom=False)
    drawn = np.ma.masked_equal(shown.T, 0)
    norm = PowerNorm(0.5, vmin=0, vmax=max(1, int(shown.max(initial=0))))
    image = cells.imshow(
        drawn,
        aspect="auto",
        cmap=LinearSegmentedColormap.from_list("holdings", ("#d3e5f3", COLOURS[0], "#04213f")),
        norm=norm,
        interpolation="nearest",
        origin="lower",
    )
    cells.set_xlabel(f"client (the first {clients} of {len(counts)})" if clients < len(counts) else "client")
    cells.set_ylabel("class")
    cells.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    cells.set_yticks(range(classes) if classes <= 10 else range(0, classes, -(-classes // 10)))
    figure.colorbar(image, ax=cells, label="examples", aspect=12, pad=0.02, ticks=MaxNLocator(nbins=5, integer=True))
    if title:
        figure.suptitle(title, color=ALARM, fontweight="bold", fontsize=7)
    return figure


@rc_context(STYLE)
def encode(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as a file: PNG at 300 dots per inch, or SVG with its letters as outlines."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, facecolor="white", metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()


def _blank(legend: Sequence[Sequence[Line2D]], title: str) -> tuple[Figure, Axes]:
    """Empty axes above their legend, which covers no data; each group of entries begins a line, and the figure is as high as that asks."""
    longest = max(len(line) for group in legend for entry in group for line in str(entry.get_label()).splitlines())
    columns = min(max(len(group) for group in legend), 3 if longest <= 12 else 2 if longest <= 24 else 1)
    empty = Line2D([], [], linestyle="", label=" ")
    entries = [entry for group in legend for entry in [*group, *[empty] * (-len(group) % columns)]]
    lines = sum(max(1 + str(entry.get_label()).count("\n") for entry in entries[i : i + columns]) for i in range(0, len(entries), columns))
    figure = Figure(figsize=(WIDTH, 2.1 + 0.15 * lines), layout="constrained")
    down = [entry for column in range(columns) for entry in entries[column::columns]]  # matplotlib fills column by column
    figure.legend(handles=down, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.8)
    axes = figure.subplots()
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, color=ALARM, fontweight="bold")
    return figure, axes


def _look(series: Sequence[Series], one: Series) -> dict[str, Any]:
    """Colour of the method, dashes and marker of the client count."""
    return _method([other.label for other in series], one.label) | _population([other.clients for other in series], one.clients)


def _method(labels: Sequence[str], label: str) -> dict[str, Any]:
    place = list(dict.fromkeys(labels)).index(label)
    return {"color": COLOURS[place % len(COLOURS)], "fillstyle": FILLS[place // len(COLOURS) % len(FILLS)]}


def _population(counts: Sequence[int], clients: int) -> dict[str, Any]:
    place = sorted(set(counts)).index(clients)
    return {"linestyle": DASHES[place % len(DASHES)], "marker": MARKERS[place % len(MARKERS)]}


def _legend(series: Sequence[Series]) -> list[list[Line2D]]:
    """One entry for each method, then one for each client count when there are several."""
    labels, counts = [one.label for one in series], [one.clients for one in series]
    marker = MARKERS[0] if len(set(counts)) == 1 else ""
    methods = [Line2D([], [], label=textwrap.fill(x, 52), marker=marker, **_method(labels, x)) for x in dict.fromkeys(labels)]
    populations = [Line2D([], [], color="#666666", label=f"{x} clients", **_population(counts, x)) for x in sorted(set(counts))]
    return [methods, populations] if len(populations) > 1 else [methods]
