"""The tables of `fedsam bench`, and the same as plain values for JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from experiments.benchmarks.comparison import Plan, Run, Summary, differences
from experiments.benchmarks.contenders import FLOOR
from experiments.benchmarks.workloads import Workload
from fedsam.formatting import count, size

WIDTH = 80
MAX_OTHER_LOAD = 0.1  # of the CPU time of a machine, which other programs may take before the reader is told
REFERENCE = "ray"  # the way that SAM and MSAM are compared with
Summaries = Mapping[tuple[str, str], Summary]


def workload_table(plan: Plan, workload: Workload, runs: Sequence[Run], found: Summaries) -> Table:
    """The ways on one workload; each ratio is to the floor."""
    table = _table(workload.title, "round\nms", "ratio", "CPU ms\na client", "ratio", "start\ns", "ratio", "memory")
    floor = found.get((workload.name, FLOOR))
    for name, way in plan.ways.items():
        summary = found.get((workload.name, name))
        if summary is None:
            table.add_row(way.title, *["-"] * 7)
            continue
        values = summary.round_seconds, summary.cpu_seconds, summary.start_seconds
        floors = (floor.round_seconds, floor.cpu_seconds, floor.start_seconds) if floor else (0.0, 0.0, 0.0)
        shown = _digits(1000 * values[0]), _digits(1000 * values[1]), _digits(values[2])
        ratios = [f"{value / of:.2f}" if of else "" for value, of in zip(values, floors, strict=True)]
        table.add_row(way.title, *(cell for pair in zip(shown, ratios, strict=True) for cell in pair), size(summary.memory))
    table.caption = " ".join([*_ratios(workload, found), *_agreement(plan, workload, runs), *_load(workload, found)])
    return table


def growth_table(growth: Mapping[str, Mapping[int, Workload]], found: Summaries) -> Table:
    """fedsam on Ray actors, whose clients do nothing, as one thing grows and the others stay."""
    table = _table("Growth: clients that do nothing, on Ray actors", "", "round\nms", "CPU ms\na client", "start\ns", "memory")
    for what, workloads in growth.items():
        for value, workload in workloads.items():
            if summary := found.get((workload.name, REFERENCE)):
                cells = _digits(1000 * summary.round_seconds), _digits(1000 * summary.cpu_seconds), _digits(summary.start_seconds)
                table.add_row(what, count(value), *cells, size(summary.memory))
    return table


def commands_table(commands: Mapping[str, float]) -> Table:
    """CPU seconds of commands."""
    table = _table("Commands that start nothing", "CPU s")
    for arguments, seconds in commands.items():
        table.add_row(f"fedsam {arguments}", _digits(seconds))
    return table


def as_json(
    plan: Plan, runs: Sequence[Run], found: Summaries, commands: Mapping[str, float], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything measured, with what it was measured on."""
    versions = {package: metadata.version(package) for package in ("fedsam", "torch", "flwr", "ray", "numpy")}
    workloads = {run.workload.name: run.workload for run in runs}
    return {
        "settings": dict(settings),
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine(), "python": platform.python_version()},
        "versions": versions,
        "workloads": [asdict(workload) for workload in workloads.values()],
        "summaries": [{"workload": workload, "way": way, **asdict(summary)} for (workload, way), summary in found.items()],
        "largest_difference_of_weights": {name: differences(runs, workload, plan.ways) for name, workload in workloads.items()},
        "commands": dict(commands),
        "runs": [{"workload": run.workload.name, "way": run.way, **asdict(run.measurement)} for run in runs],
    }


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", width=WIDTH, padding=(0, 1, 0, 0), box=SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _ratios(workload: Workload, found: Summaries) -> list[str]:
    """How long a round of SAM and of MSAM takes beside one of SGD."""
    reference = found.get((workload.name, REFERENCE))
    ways = [(name.upper(), found.get((workload.name, name))) for name in ("sam", "msam")]
    texts = [f"{name} {summary.round_seconds / reference.round_seconds:.2f}" for name, summary in ways if summary and reference]
    return [f"A round with SGD is 1, with {', with '.join(texts)}."] if texts else []


def _agreement(plan: Plan, workload: Workload, runs: Sequence[Run]) -> list[str]:
    found = differences(runs, workload, plan.ways)
    return [f"Final weights differ from the floor's by at most {max(found.values()):.0e} ({', '.join(found)})."] if found else []


def _load(workload: Workload, found: Summaries) -> list[str]:
    largest = max((summary.other_load for (name, _), summary in found.items() if name == workload.name), default=0.0)
    return [f"Other programs took up to {100 * largest:.0f} % of the CPU time: trust the CPU ratios."] if largest > MAX_OTHER_LOAD else []


def _digits(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
