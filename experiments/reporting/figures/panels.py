"""Panels of figures, the legend below them, and their axes of costs, client counts and percents."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from experiments.analysis.conditions import condition_text
from experiments.analysis.cost import Cost
from experiments.reporting.figures.style import FAINT, WARNING_COLOUR, WIDTH, MethodStyles, ShownFigure

LOG_RATIO = 30.0  # of the largest to the smallest positive value, from which an axis is logarithmic


def panels(
    titles: Sequence[str],
    styles: MethodStyles,
    *,
    title: str,
    columns: int = 1,
    height: float = 1.6,
    kind: Literal["line", "point"] = "line",
    shared: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with empty axes, one for each of `titles`, above a legend of the methods in `styles`.

    Args:
        title: A warning above everything; may be empty.
        height: Inches of a row of axes, without the legend.
        kind: What the legend shows of a method.
        shared: Whether the axes share one x axis, labelled below the last.
        sharey: Whether they share one y axis.
    """
    rows = -(-len(titles) // columns)
    entries = [Line2D([], [], label=textwrap.fill(label, 52), **getattr(style, kind)) for label, style in styles.items()]
    legend_columns, lines = _legend_size(entries)
    figure = ShownFigure(figsize=(WIDTH, height * rows + 0.3 + 0.15 * lines + (0.15 if title else 0)), layout="constrained")
    if entries:
        figure.legend(
            handles=_row_major(entries, legend_columns), loc="outside lower center", ncols=legend_columns, frameon=False, handlelength=2.8
        )
    grid = _filled_grid(figure, len(titles), columns, sharex=shared, sharey=sharey)
    for axes, name in zip(grid, titles, strict=True):
        axes.set_title(name)
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
    if title:
        figure.suptitle(title, color=WARNING_COLOUR)
    return figure, grid


def _filled_grid(figure: Figure, number: int, columns: int, *, sharex: bool, sharey: bool) -> list[Axes]:
    """Axes row by row; those of an incomplete last row share its whole width. Shared axes have their numbers at the edge alone."""
    rest = number % columns or columns
    rows, width = -(-number // columns), math.lcm(columns, rest)
    spec, grid = figure.add_gridspec(rows, width), list[Axes]()
    for index in range(number):
        row, column = divmod(index, columns)
        each = width // (rest if row == rows - 1 else columns)
        first = grid[0] if grid else None
        axes = figure.add_subplot(
            spec[row, column * each : (column + 1) * each], sharex=first if sharex else None, sharey=first if sharey else None
        )
        if sharex and row < rows - 1:
            axes.tick_params(axis="x", labelbottom=False)
        if sharey and column:
            axes.tick_params(axis="y", labelleft=False)
        grid.append(axes)
    return grid


def _legend_size(entries: Sequence[Line2D]) -> tuple[int, int]:
    """Columns and lines of text of the legend."""
    texts = [str(entry.get_label()) for entry in entries] or [""]
    longest = max(len(line) for text in texts for line in text.splitlines() or [""])
    columns = min(len(texts), 4 if longest <= 6 else 3 if longest <= 12 else 2 if longest <= 23 else 1)
    return columns, sum(max(1 + text.count("\n") for text in texts[i : i + columns]) for i in range(0, len(texts), columns))


def _row_major(entries: Sequence[Line2D], columns: int) -> list[Line2D]:
    """Entries in the order in which matplotlib, which fills column by column, shows them row by row."""
    filled = [*entries, *[Line2D([], [], linestyle="", label=" ")] * (-len(entries) % columns)]
    return [entry for column in range(columns) for entry in filled[column::columns]]


def cost_axis(axis: Axis, cost: Cost, largest: float) -> float:
    """Set label and ticks of an axis of a cost.

    Args:
        largest: The largest value that will be drawn.

    Returns:
        The divisor of values: seconds are drawn as minutes or hours where they are many.
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
    cost: Cost,
    largest: Mapping[int, float],
    styles: MethodStyles,
    *,
    title: str,
    kind: Literal["line", "point"] = "line",
    ylabel: str = "test accuracy (%)",
) -> tuple[Figure, dict[int, tuple[Axes, float]]]:
    """A figure with a panel of accuracy or loss against a cost for each client count; panels share the x axis if their costs are alike.

    Args:
        largest: The largest cost of each client count.

    Returns:
        The figure, and for each client count the axes and the divisor of costs, as of `cost_axis`.
    """
    counts = sorted(largest)
    shared = max(largest.values()) < 4 * min(largest.values())
    height = 1.9 if len(counts) == 1 else 1.45 if shared else 1.7
    figure, grid = panels(client_count_titles(counts), styles, title=title, height=height, kind=kind, shared=shared)
    found = {}
    for clients, axes in zip(counts, grid, strict=True):
        length = cost_axis(axes.xaxis, cost, max(largest.values()) if shared else largest[clients])
        axes.set_ylabel(ylabel)
        if shared and axes is not grid[-1]:
            axes.set_xlabel("")
        found[clients] = (axes, length)
    return figure, found


def client_count_titles(counts: Sequence[int]) -> list[str]:
    """Titles of one panel for each client count or condition; empty where there is one count."""
    return [condition_text(clients) for clients in counts] if len(counts) > 1 else [""]


def client_count_axis(axes: Axes, counts: Sequence[int]) -> None:
    """Make the x axis logarithmic, with the client counts as ticks."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{count:,}".replace(",", "\u202f") for count in counts])
    axes.set_xlabel("clients")
    axes.margins(x=0.12)


def dodge_factors(methods: Iterable[str]) -> dict[str, float]:
    """A factor for each method that moves its points aside on a logarithmic x axis."""
    names = list(methods)
    return {name: 1.03 ** (index - (len(names) - 1) / 2) for index, name in enumerate(names)}


def limit_to_percents(axes: Axes) -> None:
    """Clip the y axis to the range of percents, which intervals of few seeds exceed; call it after drawing."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))


def logarithmic_if_wide(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> bool:
    """Make an axis logarithmic, with plain numbers, where positive values differ by more than `LOG_RATIO`; whether that was done."""
    found = finite(values)
    if not found or min(found) <= 0 or max(found) <= LOG_RATIO * min(found):
        return False
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
    return True


def finite(values: Sequence[float]) -> list[float]:
    """The values that are neither infinite nor NaN."""
    return [value for value in values if np.isfinite(value)]
