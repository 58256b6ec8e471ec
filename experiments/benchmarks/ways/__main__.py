"""Run a way: `python -m experiments.benchmarks.ways NAME TASK`, where TASK is the file that a `Task` was written to."""

from __future__ import annotations

import importlib
import sys

from experiments.benchmarks.ways.task import Task
from fedsam.grid.process import pause_collection

if __name__ == "__main__":
    if sys.argv[1] == "fedsam":
        pause_collection()  # as the command does
    importlib.import_module(f"experiments.benchmarks.ways.{sys.argv[1]}").main(Task.read(sys.argv[2]))
