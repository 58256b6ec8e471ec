"""Benchmark of the start-up of `fedsam run`: seconds from the command to its first rounds.

    python -m experiments.benchmarks.startup [--repeats 3] [--data-root DIR]

Runs the command itself and reads the clock when it says that the run has started (settings checked, Ray up, data loaded) and when
the first round is over (actors up, clients trained); the imports are timed in processes of their own. On a machine that does nothing else
`fedsam --help` is to answer within a second, and dealing CIFAR-10's training examples to 10,000 clients to take less than one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from fedsam import registry
from fedsam.config import Component
from fedsam.data.partition import PARTITIONS
from fedsam.seeds import stream

CONFIG = """
rounds = 2
[data]
dataset = "cifar10"
[client]
steps = 1
[server]
participation = 2
"""
COMMAND = [sys.executable, "-m", "experiments.cli.main"]


def seconds(command: list[str]) -> float:
    """Wall time of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def dealing(name: str) -> float:
    """Wall time of dealing as many examples as CIFAR-10 has to 10,000 clients."""
    labels, draw = np.arange(50_000) % 10, registry.build(PARTITIONS, Component(name=name), "data.partition")
    start = time.perf_counter()
    draw(labels, 10_000, stream(0, "partition"))
    return time.perf_counter() - start


def stages(root: Path | None) -> dict[str, float]:
    """Seconds from the command to each of its stages."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "e.toml").write_text(CONFIG)
        options = ["--data-root", str(root)] if root else []
        start = time.perf_counter()
        found: dict[str, float] = {}
        process = subprocess.Popen([*COMMAND, "run", "e.toml", *options], cwd=folder, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            for prefix, stage in (("run 1/", "run started"), ("round 1/", "first round over"), ("round 2/", "second round over")):
                if line.startswith(prefix):
                    found.setdefault(stage, time.perf_counter() - start)
        if process.wait():
            raise RuntimeError("the run failed")
        return found | {"command over": time.perf_counter() - start}


def main(
    repeats: Annotated[int, typer.Option(help="How often to measure; medians are quoted.")] = 3,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the CIFAR-10 files.")] = None,
) -> None:
    """Measure and print a table."""
    rows: dict[str, list[float]] = {}
    for _ in range(repeats):
        rows.setdefault("fedsam --help", []).append(seconds([*COMMAND, "--help"]))
        for module in ("torch", "torchvision", "ray", "flwr.serverapp", "experiments.running.server_app"):
            rows.setdefault(f"import {module}", []).append(seconds([sys.executable, "-c", f"import {module}"]))
        for name in PARTITIONS:
            rows.setdefault(f"partition {name}, 10,000 clients", []).append(dealing(name))
        for stage, value in stages(data_root).items():
            rows.setdefault(stage, []).append(value)
    table = Table("what", f"seconds (median of {repeats})")
    for name, values in rows.items():
        table.add_row(name, f"{statistics.median(values):.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
