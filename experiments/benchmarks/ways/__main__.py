"""Run a way: `python -m experiments.benchmarks.ways NAME TASK`, where TASK is the file that a `Task` was written to."""

from __future__ import annotations

import importlib
import sys

from experiments.benchmarks.ways.task import Task

if __name__ == "__main__":
    if sys.argv[1] == "fedsam":  # as the command does; other ways run where there is no fedsam
        importlib.import_module("fedsam.grid.process").pause_collection()
    importlib.import_module(f"experiments.benchmarks.ways.{sys.argv[1]}").main(Task.read(sys.argv[2]))
