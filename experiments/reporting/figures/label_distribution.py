"""Figures of clients: the label distribution, and the accuracy of the model over clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from experiments.reporting.figures.style import COLOURS, FAINT, INK, SOFT, WARNING_COLOUR, WIDTH, MethodStyles, ShownFigure, with_rc_params
from fedsam.formatting import printable

MAX_CLIENTS = 100  # drawn in a figure of the label distribution


@with_rc_params
def label_distribution(counts: NDArray[np.integer[Any]], title: str = "", names: Sequence[str] = ()) -> Figure:
    """Number of examples of each client (above), and of each class and client (below).

    Args:
        counts: Examples, (clients, classes); only the first 100 clients are drawn.
        names: Names of the classes; empty: they are numbered.
    """
    shown = counts[:MAX_CLIENTS]
    clients, classes = shown.shape
    figure = ShownFigure(figsize=(WIDTH, 2.5), layout="constrained")
    bars, cells = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
    bars.bar(np.arange(clients), shown.sum(axis=1), width=0.85, color=SOFT)
    bars.set_ylabel("examples")
    bars.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    bars.tick_params(axis="x", bottom=False, labelbottom=False)
    drawn = np.ma.masked_equal(shown.T, 0)
    norm = PowerNorm(0.5, vmin=0, vmax=max(1, int(shown.max(initial=0))))
    image = cells.imshow(
        drawn,
        aspect="auto",
        cmap=LinearSegmentedColormap.from_list("examples", ("#d3e5f3", COLOURS[0], "#04213f")),
        norm=norm,
        interpolation="nearest",
        origin="lower",
    )
    cells.set_xlabel(f"client (the first {clients} of {len(counts)})" if clients < len(counts) else "client")
    cells.set_ylabel("class")
    cells.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    marked = range(0, classes, -(-classes // 10))  # ten at most
    cells.set_yticks(marked, [_short(names[kind]) if names else str(kind) for kind in marked])
    figure.colorbar(image, ax=cells, label="examples", aspect=12, pad=0.02, ticks=MaxNLocator(nbins=5, integer=True))
    if title:
        figure.suptitle(title, color=WARNING_COLOUR)
    return figure


def _short(name: str) -> str:
    """A class name as the label of a tick, at most 16 characters."""
    name = printable(name)
    return name if len(name) <= 16 else f"{name[:15]}…"


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy of a method with a client count on each class (K,), fractions."""

    label: str
    clients: int
    values: NDArray[np.float64]


@with_rc_params
def class_accuracies(accuracies: Sequence[ClassAccuracy], title: str = "", names: Sequence[str] = ()) -> Figure:
    """Accuracy on each class, a row of cells for each method and a panel for each client count.

    Args:
        names: Names of the classes; empty: they are numbered.
    """
    counts = sorted({one.clients for one in accuracies})
    members = [[one for one in accuracies if one.clients == clients] for clients in counts]
    rows = [len(group) for group in members]
    figure = ShownFigure(figsize=(WIDTH, 1.0 + 0.16 * sum(rows) + 0.25 * len(rows)), layout="constrained")
    panels = figure.subplots(len(counts), 1, squeeze=False, sharex=True, height_ratios=[count + 0.6 for count in rows]).flatten()
    for axes, group, clients in zip(panels, members, counts, strict=True):
        image = axes.imshow(
            100 * np.stack([one.values for one in group]), aspect="auto", cmap="cividis", vmin=0, vmax=100, interpolation="nearest"
        )
        axes.set_yticks(range(len(group)), [one.label for one in group])
        if len(counts) > 1:
            axes.set_title(f"{clients} clients")
    classes = len(accuracies[0].values)
    marked = range(0, classes, -(-classes // 10))  # ten at most
    panels[-1].set_xticks(
        marked,
        [_short(names[kind]) if names else str(kind) for kind in marked],
        rotation=45 if names else 0,
        ha="right" if names else "center",
    )
    panels[-1].set_xlabel("class")
    figure.colorbar(image, ax=list(panels), label="test accuracy (%)", aspect=12, pad=0.02)
    if title:
        figure.suptitle(title, color=WARNING_COLOUR)
    return figure


@dataclass(frozen=True)
class ClientAccuracy:
    """Accuracy over the clients of a method with a client count: mean, standard deviation and mean of the worst tenth, fractions."""

    label: str
    clients: int
    mean: float
    std: float
    worst: float


@with_rc_params
def client_accuracies(accuracies: Sequence[ClientAccuracy], styles: MethodStyles, title: str = "") -> Figure:
    """Accuracy over clients: mean with one standard deviation, and the mean of the worst tenth."""
    counts = sorted({one.clients for one in accuracies})
    members = [[one for one in accuracies if one.clients == clients] for clients in counts]
    rows = [len(group) for group in members]
    figure = ShownFigure(figsize=(WIDTH, 0.6 + 0.13 * sum(rows) + 0.25 * len(rows)), layout="constrained")
    panels = figure.subplots(len(counts), 1, squeeze=False, sharex=True, height_ratios=[count + 0.6 for count in rows]).flatten()
    for axes, group, clients in zip(panels, members, counts, strict=True):
        for row, one in enumerate(group):
            style = styles[one.label]
            axes.errorbar(100 * one.mean, row, xerr=100 * one.std, color=style.color, marker=style.marker, elinewidth=1.2)
            axes.plot(100 * one.worst, row, marker="|", color=style.color, markersize=7, markeredgewidth=1.6)
        axes.set_yticks(range(len(group)), [one.label for one in group])
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        if len(counts) > 1:
            axes.set_title(f"{clients} clients")
    panels[-1].set_xlabel("accuracy of a client (%)")
    bar = Line2D([], [], color=INK, marker="o", label="mean ± std. dev.")
    tick = Line2D([], [], color=INK, marker="|", linestyle="", markersize=7, markeredgewidth=1.6, label="worst 10 %")
    figure.legend(handles=[bar, tick], loc="outside lower center", ncols=2, frameon=False)
    if title:
        figure.suptitle(title, color=WARNING_COLOUR)
    return figure
