"""The tables of `fedsam bench`."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE
from rich.table import Table

from experiments.benchmarks.comparison import Plan, Summary
from experiments.benchmarks.contenders import FLOOR
from experiments.benchmarks.workloads import Workload

WIDTH = 80


def workload_table(plan: Plan, workload: Workload, found: Mapping[tuple[str, str], Summary]) -> Table:
    """The ways on one workload; each ratio is to the floor."""
    table = Table(title=workload.title, title_justify="left", width=WIDTH, padding=(0, 1, 0, 0), box=SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("round\nms", "ratio", "CPU ms\na client", "ratio", "start\ns", "ratio", "MB"):
        table.add_column(heading, justify="right")
    floor = found.get((workload.name, FLOOR))
    for name, way in plan.ways.items():
        summary = found.get((workload.name, name))
        if summary is None:
            table.add_row(way.title, *["-"] * 7)
            continue
        cells: list[str] = []
        for unit, field in ((1000, "round_seconds"), (1000, "cpu_seconds"), (1, "start_seconds")):
            value = getattr(summary, field)
            cells += [_digits(unit * value), f"{value / getattr(floor, field):.3g}" if floor and getattr(floor, field) else ""]
        table.add_row(way.title, *cells, f"{summary.memory / 1e6:.0f}")
    return table


def _digits(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
