"""What clients hold, and how well the model serves them."""

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

from experiments.reporting.figures.style import ALARM, COLOURS, FAINT, INK, SOFT, WIDTH, Looks, styled

SHOWN = 100  # clients in a picture of label_distribution


@styled
def label_distribution(counts: NDArray[np.integer[Any]], title: str = "", names: Sequence[str] = ()) -> Figure:
    """Who holds what: examples of each client above, and of each class and client below.

    Args:
        counts: Examples, (clients, classes); only the first 100 clients are drawn.
        names: Of the classes; empty: they are numbered.
    """
    shown = counts[:SHOWN]
    clients, classes = shown.shape
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
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
        cmap=LinearSegmentedColormap.from_list("holdings", ("#d3e5f3", COLOURS[0], "#04213f")),
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
        figure.suptitle(title, color=ALARM)
    return figure


def _short(name: str) -> str:
    """A class name as a mark of an axis, where `$` would begin a formula."""
    return (name if len(name) <= 16 else f"{name[:15]}…").replace("$", r"\$")


@dataclass(frozen=True)
class Spread:
    """Accuracy over the clients of one method with one client count: its mean, standard deviation and worst tenth, fractions."""

    label: str
    clients: int
    mean: float
    std: float
    worst: float


@styled
def client_spread(spreads: Sequence[Spread], looks: Looks, title: str = "") -> Figure:
    """How evenly the model serves clients: mean with one standard deviation over clients, and the mean of the worst tenth."""
    counts = sorted({spread.clients for spread in spreads})
    members = [[spread for spread in spreads if spread.clients == clients] for clients in counts]
    rows = [len(group) for group in members]
    figure = Figure(figsize=(WIDTH, 0.6 + 0.13 * sum(rows) + 0.25 * len(rows)), layout="constrained")
    panels = figure.subplots(len(counts), 1, squeeze=False, sharex=True, height_ratios=[count + 0.6 for count in rows]).flatten()
    for axes, group, clients in zip(panels, members, counts, strict=True):
        for place, spread in enumerate(group):
            look = looks[spread.label]
            axes.errorbar(100 * spread.mean, place, xerr=100 * spread.std, color=look.color, marker=look.marker, elinewidth=1.2)
            axes.plot(100 * spread.worst, place, marker="|", color=look.color, markersize=7, markeredgewidth=1.6)
        axes.set_yticks(range(len(group)), [spread.label for spread in group])
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
        figure.suptitle(title, color=ALARM)
    return figure
