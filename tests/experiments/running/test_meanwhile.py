"""When this process trains clients until an actor is up."""

from pathlib import Path
from typing import Any

import pytest

from experiments.running import server_app
from experiments.running.grids import ActorGroup, DatasetCache, actor_groups
from experiments.running.server_app import run_on
from experiments.settings.catalogue import check
from fedsam.grid.ray_grid import RayGrid
from tests.experiments.running.test_server_app import Told, experiment
from tests.support.shared_ray import SharedRay


@pytest.mark.parametrize(
    ("changes", "quick"),
    [
        ({}, True),
        ({"client__epochs": 1001}, False),  # local steps of a batch
        ({"client__steps": 1000, "client__batch_size": 1}, True),
        ({"client__steps": 1001, "client__batch_size": 1}, False),
        ({"model": "resnet18"}, False),
        ({"server__deadline": 60.0, "server__on_client_error": "drop"}, False),
    ],
)
def test_this_process_trains_before_an_actor_is_up_where_a_client_is_quick(
    tmp_path: Path, shared_ray: SharedRay, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], quick: bool
) -> None:
    class EndedError(Exception):
        pass

    def refuse(*_: object) -> None:
        raise EndedError

    made, told = experiment(tmp_path, rounds=1, compute={"grid": "ray", "actors": 1}, **changes), Told()
    monkeypatch.setattr(server_app.Session, "run", refuse)
    with shared_ray.pool(1) as pool:
        grid, dataset = ActorGroup(DatasetCache(), pool, trains_meanwhile=True)(made)
        with pytest.raises(EndedError):
            run_on(check(made), grid, dataset, told)
        assert isinstance(grid, RayGrid)
        assert (grid.meanwhile is not None) == quick
        assert told.phases == ["round 1" if quick else "round 1 begins once an actor has started"]


def test_where_ray_was_there_before_its_actors_train_alone(tmp_path: Path, shared_ray: SharedRay) -> None:
    made = [experiment(tmp_path, compute={"grid": "ray", "actors": 1})]
    with shared_ray.as_grids(), actor_groups(made, 1) as (group,):  # a Ray that is here already has its actors
        grid, _ = group(made[0])
        assert isinstance(grid, RayGrid)
        assert grid.meanwhile is None
