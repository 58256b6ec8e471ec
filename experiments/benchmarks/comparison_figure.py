"""The figure of `fedsam bench`: ratios to the floor of each way on each workload, and growth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from experiments.benchmarks.comparison import Plan
from experiments.benchmarks.comparison_table import REFERENCE, Summaries
from experiments.benchmarks.contenders import FLOOR, WAYS
from experiments.benchmarks.workloads import Workload
from experiments.reporting.figures.panels import panels
from experiments.reporting.figures.style import SOFT, MethodStyles, encode, method_styles, with_rc_params

RATIOS = {"round_seconds": "seconds of a round", "cpu_seconds": "CPU seconds of a client", "start_seconds": "start to end of round 1"}


@with_rc_params
def draw(plan: Plan, found: Summaries, growth: Mapping[str, Mapping[int, Workload]]) -> Figure:
    """A panel for each measure, and one for each thing that grows."""
    ways = [name for name in plan.ways if name != FLOOR]
    styles = method_styles([WAYS[name].title for name in dict.fromkeys([*ways, *([REFERENCE] if growth else [])])])
    workloads = [workload for workload in plan.workloads if (workload.name, FLOOR) in found]
    titles = [f"{title} (floor: 1)" for title in RATIOS.values()] if workloads else []
    figure, grid = panels(
        [*titles, *(f"growth: {what}" for what in growth)], styles, title="", height=1.5, kind="line" if growth else "point"
    )
    for axes, field in zip(grid, RATIOS if workloads else [], strict=False):
        _ratios(axes, plan, found, field, workloads, styles)
    for axes, (what, points) in zip(grid[len(titles) :], growth.items(), strict=True):
        _growth(axes, what, points, found, styles[WAYS[REFERENCE].title].line)
    return figure


def write(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, or as SVG where the name ends so."""
    file.write_bytes(encode(figure, "svg" if file.suffix == ".svg" else "png"))


def _ratios(axes: Axes, plan: Plan, found: Summaries, field: str, workloads: list[Workload], styles: MethodStyles) -> None:
    for name, way in plan.ways.items():
        places = [place for place, workload in enumerate(workloads) if name != FLOOR and (workload.name, name) in found]
        names = [workloads[place].name for place in places]
        values = [getattr(found[one, name], field) / getattr(found[one, FLOOR], field) for one in names]
        if places:
            axes.plot(places, values, **styles[way.title].point)
    axes.axhline(1, color=SOFT, linewidth=0.6)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(workloads)), [workload.name.replace("-", "\n", 1) for workload in workloads])
    axes.set_xlim(-0.5, len(workloads) - 0.5)


def _growth(axes: Axes, what: str, points: Mapping[int, Workload], found: Summaries, line: dict[str, object]) -> None:
    times = {size: found[one.name, REFERENCE].round_seconds for size, one in points.items() if (one.name, REFERENCE) in found}
    axes.plot(list(times), [1000 * seconds for seconds in times.values()], **line)  # type: ignore[arg-type]  # matplotlib's many keywords
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xticks(list(points), [f"{value:,}" for value in points])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(what)
    axes.set_ylabel("round (ms)")
