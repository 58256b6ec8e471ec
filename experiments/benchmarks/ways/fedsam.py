"""fedsam as `fedsam run` runs it, on Ray actors or in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.benchmarks.ways.task import Clock, Task
from experiments.callbacks.callback import Callback
from experiments.running.server_app import run
from fedsam.config import Experiment, parse
from fedsam.results.rows import Row

NOOP = "experiments.benchmarks.ways.noop"


class MarkRounds(Callback):
    """Marks the end of each round."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

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
    task.keep(run(experiment(task), MarkRounds(Clock(task))).w.numpy())
