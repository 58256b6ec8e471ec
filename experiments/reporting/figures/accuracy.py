"""Accuracy as it grows with what is spent, and as the number of clients grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.analysis.cost import COSTS
from experiments.analysis.curves import Series
from experiments.analysis.leaderboard import Key
from experiments.analysis.statistics import Estimate, front
from experiments.reporting.figures.style import Look, Looks, cost_axis, cost_panels, count_axis, dodged, panels, percents, styled


@styled
def accuracy_curves(series: Sequence[Series], against: str, looks: Looks, title: str = "", *, bands: bool = True) -> Figure:
    """Test accuracy as it grows with a cost, a panel for each client count; a cross ends a curve that diverged.

    Args:
        bands: Draw the intervals over seeds, which hide the curves where there are many.
    """
    ends = {(one.label, one.clients): float(one.spent[against][-1]) for one in series}
    figure, found = cost_panels(COSTS[against], _largest(ends), _shown(looks, ends), title=title)
    for one in series:
        axes, length = found[one.clients]
        _curve(axes, one.spent[against] / length, one, looks[one.label], bands)
    for axes, _ in found.values():
        percents(axes)
    return figure


def _curve(axes: Axes, x: NDArray[np.float64], one: Series, look: Look, bands: bool) -> None:
    y = 100 * one.accuracy
    axes.plot(x, y, markevery=max(1, len(x) // 6), **look.line)
    if bands:
        axes.fill_between(x, y - 100 * one.half_width, y + 100 * one.half_width, color=look.color, alpha=0.15, linewidth=0)
    drawn = np.flatnonzero(np.isfinite(y))
    if 0 < len(drawn) < len(y):
        axes.plot(x[drawn[-1]], y[drawn[-1]], "x", color=look.color, markersize=6, markeredgewidth=1.4)


@styled
def accuracy_against_clients(held: Mapping[str, Mapping[Key, Estimate]], looks: Looks, title: str = "") -> Figure:
    """Test accuracy of each method as the population grows; bars are 95 % intervals over seeds.

    Args:
        held: Accuracies (fractions) by the title of their panel.
    """
    shown, columns = _shown(looks, *held.values()), min(2, len(held))
    figure, grid = panels(list(held), shown, title=title, columns=columns, height=1.9 if columns == 1 else 1.6)
    counts = sorted({clients for accuracies in held.values() for _, clients in accuracies})
    for place, (accuracies, axes) in enumerate(zip(held.values(), grid, strict=True)):
        for label, factor in dodged(shown).items():
            own = [(clients * factor, accuracies[label, clients]) for clients in counts if (label, clients) in accuracies]
            x, y = [clients for clients, _ in own], [100 * accuracy.mean for _, accuracy in own]
            axes.errorbar(x, y, [100 * (accuracy.half_width or 0.0) for _, accuracy in own], elinewidth=0.7, **looks[label].line)
        count_axis(axes, counts)
        percents(axes)
        if place % columns == 0:
            axes.set_ylabel("test accuracy (%)")
    return figure


@styled
def costs_against_clients(held: Mapping[str, Mapping[Key, float]], looks: Looks, title: str = "") -> Figure:
    """What a run costs in total as the population grows, by the names of `COSTS`."""
    shown = _shown(looks, *held.values())
    figure, grid = panels([""] * len(held), shown, title=title, columns=min(2, len(held)), height=1.5)
    counts = sorted({clients for costs in held.values() for _, clients in costs})
    for (name, costs), axes in zip(held.items(), grid, strict=True):
        length = cost_axis(axes.yaxis, COSTS[name], max(costs.values()))
        for label, factor in dodged(shown).items():
            own = [(clients * factor, costs[label, clients] / length) for clients in counts if (label, clients) in costs]
            axes.plot([clients for clients, _ in own], [cost for _, cost in own], **looks[label].line)
        count_axis(axes, counts)
        axes.set_ylim(bottom=0)
    return figure


def _shown(looks: Looks, *tables: Mapping[Key, object]) -> Looks:
    used = {label for table in tables for label, _ in table}
    return {label: look for label, look in looks.items() if label in used}


def _largest(costs: Mapping[Key, float]) -> dict[int, float]:
    return {clients: max(cost for (_, n), cost in costs.items() if n == clients) for _, clients in costs}


@dataclass(frozen=True)
class Point:
    """A method with a client count: its test accuracy, a fraction, and what it cost."""

    label: str
    clients: int
    accuracy: Estimate
    cost: float

    @property
    def key(self) -> Key:
        """Its label and client count."""
        return self.label, self.clients


def on_front(points: Sequence[Point]) -> list[Point]:
    """The points whose accuracy nothing cheaper or as cheap has, cheapest first."""
    return [points[index] for index in front([point.cost for point in points], [point.accuracy.mean for point in points])]


@styled
def pareto(points: Sequence[Point], against: str, looks: Looks, title: str = "") -> Figure:
    """Accuracy against a cost, a panel for each client count: the front is named and filled, what it dominates is hollow."""
    costs = {point.key: point.cost for point in points}
    figure, found = cost_panels(COSTS[against], _largest(costs), _shown(looks, costs), title=title, kind="point")
    for clients, (axes, length) in found.items():
        own = [point for point in points if point.clients == clients]
        best = on_front(own)
        x, y = [point.cost / length for point in best], [100 * point.accuracy.mean for point in best]
        axes.step(x, y, where="post", color="#aaaaaa", zorder=1)
        for point in own:
            look = looks[point.label].point | {"fillstyle": "full" if point in best else "none"}
            error = 100 * (point.accuracy.half_width or 0.0)
            axes.errorbar(point.cost / length, 100 * point.accuracy.mean, error, elinewidth=0.6, markersize=4.2, **look)
        for point, right, up in zip(best, x, y, strict=True):
            # The names lie where nothing can be: a point there would dominate.
            axes.annotate(point.label, (right, up), (-2, 2), textcoords="offset points", ha="right", va="bottom", rotation=-35, fontsize=6)
        axes.margins(0.18, 0.3)
        percents(axes)
    return figure
