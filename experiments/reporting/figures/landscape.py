"""Figures of the loss landscape: flatness against accuracy, and slices through the final models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.analysis.statistics import Estimate
from experiments.reporting.figures.panels import client_count_titles, finite, limit_to_percents, logarithmic_if_wide, panels
from experiments.reporting.figures.style import MethodStyles, with_rc_params


@dataclass(frozen=True)
class FlatnessPoint:
    """A method with its test accuracy (a fraction) and a measure of flatness."""

    label: str
    accuracy: Estimate
    measure: Estimate


@with_rc_params
def flatness_against_accuracy(points: Mapping[str, Sequence[FlatnessPoint]], styles: MethodStyles, title: str = "") -> Figure:
    """Accuracy against measures of flatness, one panel for each; bars are 95 % intervals over seeds.

    Args:
        points: By title of the panel, one for each method.
    """
    labels = {point.label for panel in points.values() for point in panel}
    used = {label: style for label, style in styles.items() if label in labels}
    columns = min(2, len(points))
    figure, grid = panels(list(points), used, title=title, columns=columns, height=1.45, kind="point", sharey=True)
    for index, (panel, axes) in enumerate(zip(points.values(), grid, strict=True)):
        for point in panel:
            x_error, y_error = point.measure.half_width or 0.0, 100 * (point.accuracy.half_width or 0.0)
            axes.errorbar(point.measure.mean, 100 * point.accuracy.mean, y_error, x_error, elinewidth=0.5, **styles[point.label].point)
        if not logarithmic_if_wide(axes, "x", [point.measure.mean for point in panel]):
            axes.locator_params(axis="x", nbins=4)
        limit_to_percents(axes)
        if index % columns == 0:
            axes.set_ylabel("test accuracy (%)")
    return figure


@dataclass(frozen=True)
class MethodSlice:
    """Losses of a method along a line (A,) or over a plane (A, A), at multiples `alphas` (A,) of random directions."""

    label: str
    clients: int
    alphas: NDArray[np.float64]
    losses: NDArray[np.float64]


@with_rc_params
def loss_lines(slices: Sequence[MethodSlice], styles: MethodStyles, title: str = "") -> Figure:
    """Loss along a line through the final models, a panel for each client count."""
    counts = sorted({one.clients for one in slices})
    used = {label: style for label, style in styles.items() if any(one.label == label for one in slices)}
    figure, grid = panels(client_count_titles(counts), used, title=title, height=1.9 if len(counts) == 1 else 1.45, shared=True)
    for clients, axes in zip(counts, grid, strict=True):
        for one in slices:
            if one.clients == clients:
                axes.plot(one.alphas, one.losses, markevery=max(1, len(one.alphas) // 8), **styles[one.label].line)
        logarithmic_if_wide(axes, "y", [float(loss) for one in slices if one.clients == clients for loss in one.losses])
        axes.set_ylabel("training loss")
    grid[-1].set_xlabel("step along the direction, in lengths of the weights")
    return figure


@with_rc_params
def loss_planes(slices: Sequence[MethodSlice], title: str = "") -> Figure:
    """Contours of the loss over a plane through each method's final model, with the same levels for all."""
    columns = min(3, len(slices))
    figure, grid = panels([one.label for one in slices], {}, title=title, columns=columns, height=1.2, shared=True, sharey=True)
    values = np.array(finite([float(loss) for one in slices for loss in one.losses.flat if loss > 0]))
    lowest, highest = (float(values.min()), float(values.max())) if len(values) else (0.1, 1.0)
    levels = np.geomspace(lowest, max(highest, lowest * 1.01), 12)
    drawn = None
    for one, axes in zip(slices, grid, strict=True):
        losses = np.ma.masked_invalid(one.losses.T)  # the first direction is the x axis
        drawn = axes.contourf(one.alphas, one.alphas, losses, levels=levels, cmap="cividis_r", extend="both")
        axes.contour(one.alphas, one.alphas, losses, levels=levels[::2], colors="white", linewidths=0.3)
        axes.plot(0, 0, "+", color="white", markersize=5)
        axes.set_aspect("equal")
        axes.grid(False)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=grid, location="bottom", aspect=40, pad=0.02, label="training loss (logarithmic)")
        bar.set_ticks([float(level) for level in levels[::3]], labels=[f"{level:.3g}" for level in levels[::3]])
        bar.minorticks_off()
    return figure
