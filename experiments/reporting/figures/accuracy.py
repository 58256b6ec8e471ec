"""Figures of accuracy and cost: curves, the effect of the number of clients, Pareto fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.analysis.cost import COSTS
from experiments.analysis.curves import Curve
from experiments.analysis.leaderboard import EntryKey
from experiments.analysis.statistics import Estimate, pareto_front
from experiments.reporting.figures.panels import (
    client_count_axis,
    cost_axis,
    cost_panels,
    dodge_factors,
    limit_to_percents,
    logarithmic_if_wide,
    panels,
)
from experiments.reporting.figures.style import MethodStyle, MethodStyles, with_rc_params


@with_rc_params
def accuracy_curves(curves: Sequence[Curve], against: str, styles: MethodStyles, title: str = "", *, bands: bool = True) -> Figure:
    """Test accuracy against a cost, a panel for each client count; a cross marks where a run diverged.

    Args:
        against: A name of `COSTS`.
        bands: Whether the intervals over seeds are drawn.
    """
    figure, by_count = _curve_panels(curves, against, styles, title, "test accuracy (%)")
    for curve in curves:
        axes, divisor = by_count[curve.clients]
        _draw(axes, curve, curve.costs[against] / divisor, 100, styles[curve.label], bands)
    for axes, _ in by_count.values():
        limit_to_percents(axes)
    return figure


@with_rc_params
def loss_curves(curves: Sequence[Curve], ylabel: str, styles: MethodStyles, title: str = "", *, bands: bool = True) -> Figure:
    """A loss against rounds, a panel for each client count, logarithmic where it varies much; a cross marks where a run diverged."""
    figure, by_count = _curve_panels(curves, "rounds", styles, title, ylabel)
    for clients, (axes, divisor) in by_count.items():
        own = [curve for curve in curves if curve.clients == clients]
        is_log = logarithmic_if_wide(axes, "y", [float(value) for curve in own for value in curve.values])
        for curve in own:
            _draw(axes, curve, curve.costs["rounds"] / divisor, 1, styles[curve.label], bands and not is_log)
    return figure


def _curve_panels(
    curves: Sequence[Curve], against: str, styles: MethodStyles, title: str, ylabel: str
) -> tuple[Figure, dict[int, tuple[Axes, float]]]:
    totals = {(curve.label, curve.clients): float(curve.costs[against][-1]) for curve in curves}
    return cost_panels(COSTS[against], _largest(totals), _used(styles, totals), title=title, ylabel=ylabel)


def _draw(axes: Axes, curve: Curve, x: NDArray[np.float64], scale: int, style: MethodStyle, bands: bool) -> None:
    y, half_width = scale * curve.values, scale * curve.half_width
    axes.plot(x, y, markevery=max(1, len(x) // 6), **style.line)
    if bands:
        axes.fill_between(x, y - half_width, y + half_width, color=style.color, alpha=0.15, linewidth=0)
    drawn = np.flatnonzero(np.isfinite(y))
    if len(drawn) and (curve.diverged or len(drawn) < len(y)):
        axes.plot(x[drawn[-1]], y[drawn[-1]], "x", color=style.color, markersize=6, markeredgewidth=1.4)


@with_rc_params
def accuracy_against_clients(accuracies: Mapping[str, Mapping[EntryKey, Estimate]], styles: MethodStyles, title: str = "") -> Figure:
    """Test accuracy against the number of clients; bars are 95 % intervals over seeds.

    Args:
        accuracies: By title of the panel: accuracies, fractions.
    """
    used, columns = _used(styles, *accuracies.values()), min(2, len(accuracies))
    figure, grid = panels(list(accuracies), used, title=title, columns=columns, height=1.9 if columns == 1 else 1.6)
    counts = sorted({int(clients) for panel in accuracies.values() for _, clients in panel})
    for index, (panel, axes) in enumerate(zip(accuracies.values(), grid, strict=True)):
        panel = {(label, int(clients)): accuracy for (label, clients), accuracy in panel.items()}
        for label, factor in dodge_factors(used).items():
            own = [(clients * factor, panel[label, clients]) for clients in counts if (label, clients) in panel]
            x, y = [clients for clients, _ in own], [100 * accuracy.mean for _, accuracy in own]
            axes.errorbar(x, y, [100 * (accuracy.half_width or 0.0) for _, accuracy in own], elinewidth=0.7, **styles[label].line)
        client_count_axis(axes, counts)
        limit_to_percents(axes)
        if index % columns == 0:
            axes.set_ylabel("test accuracy (%)")
    return figure


@with_rc_params
def costs_against_clients(costs: Mapping[str, Mapping[EntryKey, float]], styles: MethodStyles, title: str = "") -> Figure:
    """Total costs of a run against the number of clients, a panel for each name of `COSTS`."""
    used = _used(styles, *costs.values())
    figure, grid = panels([""] * len(costs), used, title=title, columns=min(2, len(costs)), height=1.5)
    counts = sorted({int(clients) for panel in costs.values() for _, clients in panel})
    for (name, panel), axes in zip(costs.items(), grid, strict=True):
        panel = {(label, int(clients)): cost for (label, clients), cost in panel.items()}
        divisor = cost_axis(axes.yaxis, COSTS[name], max(panel.values()))
        for label, factor in dodge_factors(used).items():
            own = [(clients * factor, panel[label, clients] / divisor) for clients in counts if (label, clients) in panel]
            axes.plot([clients for clients, _ in own], [cost for _, cost in own], **styles[label].line)
        client_count_axis(axes, counts)
        axes.set_ylim(bottom=0)
    return figure


def _used(styles: MethodStyles, *tables: Mapping[EntryKey, object]) -> MethodStyles:
    labels = {label for table in tables for label, _ in table}
    return {label: style for label, style in styles.items() if label in labels}


def _largest(costs: Mapping[EntryKey, float]) -> dict[int, float]:
    return {clients: max(cost for (_, n), cost in costs.items() if n == clients) for _, clients in costs}


@dataclass(frozen=True)
class CostPoint:
    """A method with a client count: its test accuracy, a fraction, and its cost."""

    label: str
    clients: int
    accuracy: Estimate
    cost: float

    @property
    def key(self) -> EntryKey:
        """Its label and client count."""
        return self.label, self.clients


def front_points(points: Sequence[CostPoint]) -> list[CostPoint]:
    """The points on the Pareto front, cheapest first."""
    return [points[index] for index in pareto_front([point.cost for point in points], [point.accuracy.mean for point in points])]


@with_rc_params
def pareto(points: Sequence[CostPoint], against: str, styles: MethodStyles, title: str = "") -> Figure:
    """Accuracy against a cost, a panel for each client count; points on the Pareto front are filled, others hollow, all named."""
    costs = {point.key: point.cost for point in points}
    figure, by_count = cost_panels(COSTS[against], _largest(costs), _used(styles, costs), title=title, kind="point")
    for clients, (axes, divisor) in by_count.items():
        own = [point for point in points if point.clients == clients]
        best = front_points(own)
        x, y = [point.cost / divisor for point in best], [100 * point.accuracy.mean for point in best]
        axes.step(x, y, where="post", color="#aaaaaa", zorder=1)
        for point in own:
            style = styles[point.label].point | {"fillstyle": "full" if point in best else "none"}
            error = 100 * (point.accuracy.half_width or 0.0)
            axes.errorbar(point.cost / divisor, 100 * point.accuracy.mean, error, elinewidth=0.6, markersize=4.2, **style)
        for point in own:
            # No point lies above and left of one on the front, so there is room for its name; the others have theirs below and right.
            where: dict[str, Any] = (
                {"xytext": (-2, 2), "ha": "right", "va": "bottom"} if point in best else {"xytext": (2, -2), "ha": "left", "va": "top"}
            )
            place = (point.cost / divisor, 100 * point.accuracy.mean)
            axes.annotate(point.label, place, textcoords="offset points", rotation=-35, fontsize=6, **where)
        axes.margins(0.18, 0.3)
        limit_to_percents(axes)
    return figure
