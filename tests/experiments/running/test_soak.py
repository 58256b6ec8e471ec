"""A long run with many clients: the memory of the driver and of the actor does not grow."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import psutil
import pytest

from experiments.callbacks.callback import Callback
from experiments.running.server_app import run
from fedsam.results.rows import Row
from tests.support.shared_ray import SharedRay

ROUNDS, CLIENTS = 2000, 1000
SETTINGS = {
    "rounds": ROUNDS,
    "model": "lenet5",
    "data": {"dataset": "digits", "clients": CLIENTS, "partition": "iid"},
    "client": {"optimizer": {"name": "sam", "lr": 0.01}, "correction": "control_variate", "steps": 1, "batch_size": 1},
    "server": {"strategy": "scaffold", "participation": 10},
    "measure": {"every": 100, "union": False},
    "compute": {"actors": 1},
    "checkpoint": {"seconds": 20.0},
}


class Memory(Callback):
    """Keeps the resident bytes of this process and of the actor, once it is up."""

    def __init__(self) -> None:
        self.driver: list[int] = []
        self.actor: list[int] = []

    def round(self, row: Row) -> None:
        """Looked at every tenth round."""
        if row.round % 10 == 0:
            below = psutil.Process().children(recursive=True)
            for actor in (process for process in below if "ClientActor" in " ".join(process.cmdline())):
                self.actor.append(actor.memory_info().rss)
                self.driver.append(psutil.Process().memory_info().rss)


@pytest.mark.slow
@pytest.mark.ray
def test_memory_stays_flat_over_two_thousand_rounds_of_a_thousand_clients(tmp_path: Path, shared_ray: SharedRay) -> None:
    shared_ray.stop()
    memory = Memory()
    run({**SETTINGS, "runs_dir": str(tmp_path)}, memory)
    for sizes in (memory.driver, memory.actor):
        assert 0.9 * ROUNDS // 10 < len(sizes) <= ROUNDS // 10
        # By the middle nearly every client has a state.
        before, after = mean(sizes[len(sizes) // 2 : 3 * len(sizes) // 4]), mean(sizes[3 * len(sizes) // 4 :])
        assert after <= 1.05 * before, f"{before / 2**20:.0f} MiB, then {after / 2**20:.0f} MiB"
