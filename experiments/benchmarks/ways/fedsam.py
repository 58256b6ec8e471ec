"""fedsam as `fedsam run` runs it, on Ray actors or in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from experiments.benchmarks.ways.task import Clock, Task
from experiments.callbacks.callback import Callback
from experiments.running.grids import grids
from experiments.running.server_app import run_on
from experiments.settings.catalogue import check
from fedsam.config import Experiment, parse
from fedsam.grid.ray_grid import RayGrid
from fedsam.results.rows import Row

NOOP = "experiments.benchmarks.ways.noop"


class MarkRounds(Callback):
    """Marks the end of each round; those after the first begin once all actors are up."""

    def __init__(self, task: Task, grid: Grid) -> None:
        self._clock = Clock(task, grid.pool.ready if isinstance(grid, RayGrid) else lambda: None)

    def round(self, row: Row) -> None:
        """The round's rows are stored."""
        self._clock.mark(row.round)


def experiment(task: Task) -> Experiment:
    """The task as an experiment."""
    model: dict[str, Any] = {"name": task.model} if task.trains else {"name": f"{NOOP}:vectors", "size": int(task.model)}
    optimizer = dict(task.optimizer) if task.trains else {"name": f"{NOOP}:Noop", "lr": task.lr}
    rounds = len(task.rounds_to_run())
    return parse(
        {
            "rounds": rounds,
            "seed": task.seed,
            "runs_dir": str(Path(task.weights).parent / "runs"),
            "data": {"dataset": f"npz:{task.images}", "clients": task.clients, "partition": "iid", "augment": []},
            "model": model,
            "client": {"optimizer": optimizer, "batch_size": task.batch_size},
            "server": {"participation": task.cohort},
            "measure": {"every": rounds, "last": 1, "union": False},
            "compute": {"grid": task.grid, **({"actors": task.actors} if task.grid == "ray" else {})},
        }
    )


def main(task: Task) -> None:
    """Run the task."""
    made = experiment(task)
    checked = check(made)
    with grids([made]) as group:
        grid, dataset = group(made)
        task.keep(run_on(checked, grid, dataset, MarkRounds(task, grid)).w.numpy())
