"""Runs over several machines, of which one is lost: three Ray nodes on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.callbacks.callback import Callback
from experiments.running.grids import grids
from experiments.running.server_app import run, serve
from experiments.settings.catalogue import check
from experiments.settings.presets import expand
from fedsam.config import Experiment
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.session import import_ray
from fedsam.overrides import override
from fedsam.results.rows import Row
from tests.support.shared_ray import SharedRay


def scaffold(folder: Path, **compute: Any) -> Experiment:
    """Four rounds of SCAFFOLD, whose clients keep vectors that do not fit into a message."""
    settings = {
        "method": "scaffold",
        "rounds": 4,
        "runs_dir": str(folder),
        "data.dataset": "digits",
        "data.clients": 8,
        "data.examples": 240,
        "model": "lenet5",
        "client.steps": 2,
        "client.batch_size": 10,
        "client.optimizer.lr": 0.02,
        "server.participation": 6,
        "measure.every": 4,
        "compute": compute,
    }
    return expand(override({}, settings))


class Listening(Callback):
    """Does something after a round, and remembers what it was told."""

    def __init__(self, after: dict[int, Callable[[], None]]) -> None:
        self.after, self.notes = after, []

    def round(self, row: Row) -> None:
        self.after.get(row.round, lambda: None)()

    def warn(self, run_id: str, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def cluster(shared_ray: SharedRay) -> Iterator[Any]:
    """Three nodes of one CPU; the first is the head."""
    shared_ray.stop()
    import_ray(private=True)  # as other tests of this process need it
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


@pytest.mark.slow
def test_three_nodes_compute_what_one_does_and_may_lose_one(tmp_path: Path, cluster: Any) -> None:
    alone = run(scaffold(tmp_path, grid="inline"))
    spread = scaffold(tmp_path, grid="ray", ray_address=cluster.address, actors=3)
    lost = next(iter(cluster.worker_nodes))
    calm, shaken = Listening({}), Listening({1: lambda: cluster.remove_node(lost, allow_graceful=False)})
    results = []
    with grids([spread]) as grid_of:
        for callback in (calm, shaken):
            grid, dataset = grid_of(spread)
            assert isinstance(grid, RayGrid)
            assert len(grid.pool.ready()) == 3
            results.append(serve(check(spread), grid, dataset, callback))
    assert all(torch.equal(result.w, alone.w) for result in results)
    assert [(row.round, row.failures) for row in results[1].rows] == [(round, 0) for round in range(1, 5)]
    assert calm.notes == []
    assert any(note.startswith("an actor died; 2 of 3 go on while it is replaced") for note in shaken.notes)
