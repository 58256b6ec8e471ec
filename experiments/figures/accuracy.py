"""Accuracy as it grows with what is spent, and as the number of clients grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.style import Look, Looks, cost_axis, count_axis, dodged, finite, panels, styled
from experiments.spending import COSTS
from experiments.statistics import Estimate, front
from experiments.trajectories import Series

Points = Mapping[tuple[str, int], Estimate]  # by label and client count


def by_count(counts: Sequence[int]) -> list[str]:
    """The titles of one panel for each client count; none where there is one count."""
    return [f"{clients} clients" for clients in counts] if len(counts) > 1 else [""]


@styled
def accuracy_curves(series: Sequence[Series], against: str, looks: Looks, title: str = "") -> Figure:
    """Test accuracy as it grows with a cost, a panel for each client count; a cross ends a curve that diverged."""
    counts = sorted({one.clients for one in series})
    shown = {label: look for label, look in looks.items() if any(one.label == label for one in series)}
    figure, grid = panels(by_count(counts), shown, title=title, height=1.9 if len(counts) == 1 else 1.45, sharex=True)
    length = cost_axis(grid[-1].xaxis, COSTS[against], max(one.spent[against][-1] for one in series))
    for clients, axes in zip(counts, grid, strict=True):
        for one in series:
            if one.clients == clients:
                _curve(axes, one.spent[against] / length, one, looks[one.label])
        axes.set_ylabel("test accuracy (%)")
    return figure


def _curve(axes: Axes, x: np.ndarray, one: Series, look: Look) -> None:
    y = 100 * one.accuracy
    axes.plot(x, y, markevery=max(1, len(x) // 6), **look.line)
    axes.fill_between(x, y - 100 * one.half_width, y + 100 * one.half_width, color=look.color, alpha=0.15, linewidth=0)
    drawn = np.flatnonzero(np.isfinite(y))
    if 0 < len(drawn) < len(y):
        axes.plot(x[drawn[-1]], y[drawn[-1]], "x", color=look.color, markersize=6, markeredgewidth=1.4)


@styled
def accuracy_against_clients(held: Mapping[str, Points], looks: Looks, title: str = "") -> Figure:
    """Test accuracy of each method as the population grows; bars are 95 % intervals over seeds.

    Args:
        held: Accuracies (fractions) by the title of their panel.
    """
    shown = _shown(looks, *held.values())
    few = len(held) == 1
    figure, grid = panels(
        list(held) if not few else [""], shown, title=title, columns=1 if few else 2, height=1.9 if few else 1.5, sharex=True, sharey=True
    )
    counts = sorted({clients for points in held.values() for _, clients in points})
    for place, (points, axes) in enumerate(zip(held.values(), grid, strict=True)):
        for label, factor in dodged(list(shown)):
            own = sorted((clients, estimate) for (name, clients), estimate in points.items() if name == label)
            x = [clients * factor for clients, _ in own]
            y = [100 * estimate.mean for _, estimate in own]
            axes.errorbar(x, y, [100 * (estimate.half_width or 0.0) for _, estimate in own], elinewidth=0.8, **looks[label].line)
        count_axis(axes, counts, "clients" if place >= len(grid) - (1 if few else 2) else "")
        axes.tick_params(labelbottom=place >= len(grid) - (1 if few else 2))
        if few or place % 2 == 0:
            axes.set_ylabel("test accuracy (%)")
    return figure


@styled
def costs_against_clients(held: Mapping[str, Mapping[tuple[str, int], float]], looks: Looks, title: str = "") -> Figure:
    """What a run costs in total as the population grows, by the names of `COSTS`."""
    figure, grid = panels([COSTS[name].title for name in held], _shown(looks, *held.values()), title=title, columns=2, height=1.4)
    counts = sorted({clients for points in held.values() for _, clients in points})
    for (name, points), axes in zip(held.items(), grid, strict=True):
        length = cost_axis(axes.yaxis, COSTS[name], max(points.values()))
        for label, look in looks.items():
            own = sorted((clients, value / length) for (method, clients), value in points.items() if method == label)
            axes.plot([clients for clients, _ in own], [value for _, value in own], **look.line)
        count_axis(axes, counts)
        axes.set_ylabel(axes.get_ylabel().removeprefix(COSTS[name].title).strip(" ()"))
        axes.set_ylim(bottom=0)
    return figure


def _shown(looks: Looks, *tables: Mapping[tuple[str, int], object]) -> Looks:
    used = {label for table in tables for label, _ in table}
    return {label: look for label, look in looks.items() if label in used}


@dataclass(frozen=True)
class Point:
    """A method with a client count: its test accuracy, a fraction, and what it cost."""

    label: str
    clients: int
    accuracy: Estimate
    cost: float


def on_front(points: Sequence[Point]) -> list[Point]:
    """The points with a client count's best accuracy for at most their cost, cheapest first."""
    return [points[index] for index in front([point.cost for point in points], [point.accuracy.mean for point in points])]


@styled
def pareto(points: Sequence[Point], against: str, looks: Looks, title: str = "") -> Figure:
    """Accuracy against a cost, a panel for each client count: the front is named and filled, what it dominates is hollow."""
    counts = sorted({point.clients for point in points})
    shown = _shown(looks, {(point.label, point.clients): None for point in points})
    figure, grid = panels(by_count(counts), shown, title=title, height=1.9 if len(counts) == 1 else 1.45, kind="point", sharex=True)
    costs = finite([point.cost for point in points])
    log = min(costs) > 0 and max(costs) > 20 * min(costs)
    if log:
        grid[-1].set_xscale("log")
    length = cost_axis(grid[-1].xaxis, COSTS[against], max(costs), log=log)
    for clients, axes in zip(counts, grid, strict=True):
        own = [point for point in points if point.clients == clients]
        best = on_front(own)
        axes.step(
            [point.cost / length for point in best], [100 * point.accuracy.mean for point in best], where="post", color="#aaaaaa", zorder=1
        )
        for point in own:
            look, width = looks[point.label], point.accuracy.half_width
            x, y = point.cost / length, 100 * point.accuracy.mean
            face = look.color if point in best else "white"
            axes.errorbar(x, y, 100 * (width or 0.0), elinewidth=0.6, markersize=4.2, markerfacecolor=face, **look.point)
            if point in best:
                axes.annotate(point.label, (x, y), (-3, 3), textcoords="offset points", ha="right", fontsize=6)
        axes.margins(0.15)
        axes.set_ylabel("test accuracy (%)")
    return figure
