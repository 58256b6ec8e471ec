"""The loss around where methods end: flatness against accuracy, and slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from experiments.analysis.statistics import Estimate
from experiments.reporting.figures.style import Looks, by_count, finite, panels, percents, styled

WIDE = 30.0  # a positive range this wide is drawn on a logarithmic axis


@dataclass(frozen=True)
class Flat:
    """A method with its test accuracy (a fraction) and a measure of flatness."""

    label: str
    accuracy: Estimate
    measure: Estimate


@styled
def flatness_against_accuracy(held: Mapping[str, Sequence[Flat]], looks: Looks, title: str = "") -> Figure:
    """Accuracy against measures of flatness, one panel for each; bars are 95 % intervals over seeds.

    Args:
        held: Methods by the title of their panel, the measure's name and the rank correlation.
    """
    labels = {flat.label for flats in held.values() for flat in flats}
    shown = {label: look for label, look in looks.items() if label in labels}
    columns = min(2, len(held))
    figure, grid = panels(list(held), shown, title=title, columns=columns, height=1.45, kind="point", sharey=True)
    for place, (flats, axes) in enumerate(zip(held.values(), grid, strict=True)):
        for flat in flats:
            across, up = flat.measure.half_width or 0.0, 100 * (flat.accuracy.half_width or 0.0)
            axes.errorbar(flat.measure.mean, 100 * flat.accuracy.mean, up, across, elinewidth=0.5, **looks[flat.label].point)
        values = finite([flat.measure.mean for flat in flats])
        if values and min(values) > 0 and max(values) > WIDE * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.locator_params(axis="x", nbins=4)
        percents(axes)
        if place % columns == 0:
            axes.set_ylabel("test accuracy (%)")
    return figure


@dataclass(frozen=True)
class Cut:
    """Losses of a method along a line (A,) or over a plane (A, A), at multiples `alphas` (A,) of random directions."""

    label: str
    clients: int
    alphas: NDArray[np.float64]
    losses: NDArray[np.float64]


@styled
def loss_lines(cuts: Sequence[Cut], looks: Looks, title: str = "") -> Figure:
    """Loss along a line through the final models, a panel for each client count."""
    counts = sorted({cut.clients for cut in cuts})
    shown = {label: look for label, look in looks.items() if any(cut.label == label for cut in cuts)}
    figure, grid = panels(by_count(counts), shown, title=title, height=1.9 if len(counts) == 1 else 1.45, shared=True)
    for clients, axes in zip(counts, grid, strict=True):
        for cut in cuts:
            if cut.clients == clients:
                axes.plot(cut.alphas, cut.losses, markevery=max(1, len(cut.alphas) // 8), **looks[cut.label].line)
        values = finite([float(loss) for cut in cuts if cut.clients == clients for loss in cut.losses])
        if values and min(values) > 0 and max(values) > WIDE * min(values):
            axes.set_yscale("log")
        axes.set_ylabel("training loss")
    grid[-1].set_xlabel("step along the direction, in lengths of the weights")
    return figure


@styled
def loss_planes(cuts: Sequence[Cut], title: str = "") -> Figure:
    """Contours of the loss over a plane through each method's final model, with the same levels for all."""
    columns = min(3, len(cuts))
    figure, grid = panels([cut.label for cut in cuts], {}, title=title, columns=columns, height=1.2, shared=True, sharey=True)
    values = np.array(finite([float(loss) for cut in cuts for loss in cut.losses.flat if loss > 0]))
    lowest, highest = (float(values.min()), float(values.max())) if len(values) else (0.1, 1.0)
    levels = np.geomspace(lowest, max(highest, lowest * 1.01), 12)
    drawn = None
    for cut, axes in zip(cuts, grid, strict=True):
        losses = np.ma.masked_invalid(cut.losses.T)  # the first direction is drawn across
        drawn = axes.contourf(cut.alphas, cut.alphas, losses, levels=levels, cmap="cividis_r", extend="both")
        axes.contour(cut.alphas, cut.alphas, losses, levels=levels[::2], colors="white", linewidths=0.3)
        axes.plot(0, 0, "+", color="white", markersize=5)
        axes.set_aspect("equal")
        axes.grid(False)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=grid, location="bottom", aspect=40, pad=0.02, label="training loss (logarithmic)")
        bar.set_ticks([float(level) for level in levels[::3]], labels=[f"{level:.3g}" for level in levels[::3]])
        bar.minorticks_off()
    return figure
