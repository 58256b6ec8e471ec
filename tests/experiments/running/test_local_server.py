"""When this process trains clients while no actor is up."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.running import server_app
from experiments.running.grids import ActorGroup, DatasetCache, actor_groups
from experiments.running.server_app import Continued, RunFailed, run, run_on, serve
from experiments.settings.catalogue import check
from fedsam.grid import session
from fedsam.grid.ray_grid import RayGrid
from fedsam.results.rows import Row, Status
from fedsam.results.store import Results
from tests.experiments.running.test_server_app import Told, experiment
from tests.support.processes import HANG
from tests.support.shared_ray import SharedRay


@pytest.mark.parametrize(
    ("changes", "quick"),
    [
        ({}, True),
        ({"client__epochs": 1001}, False),  # local steps of a batch
        ({"client__steps": 1000, "client__batch_size": 1}, True),
        ({"client__steps": 1001, "client__batch_size": 1}, False),
        ({"model": "resnet18"}, False),
        ({"model": "resnet18", "client__steps": 1, "client__batch_size": 1}, False),  # a query of the test set is not quick
        ({"server__deadline": 60.0, "server__on_client_error": "drop"}, False),
        ({"server__on_client_error": "retry"}, False),  # a client that ends its process must not end this one
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
        grid, dataset = ActorGroup(DatasetCache(), pool, serves_locally=True)(made)
        with pytest.raises(EndedError):
            run_on(check(made), grid, dataset, told)
        assert isinstance(grid, RayGrid)
        assert (grid.local_server is not None) == quick
        assert told.phases == ["round 1" if quick else "round 1 begins once an actor has started"]


@pytest.mark.parametrize(
    ("status", "error", "here"), [("interrupted", None, False), ("interrupted", "by the user", True), ("failed", "x", True)]
)
def test_a_run_whose_process_vanished_goes_on_with_actors_alone(
    tmp_path: Path, shared_ray: SharedRay, monkeypatch: pytest.MonkeyPatch, status: Status, error: str | None, *, here: bool
) -> None:
    made, seen = experiment(tmp_path, rounds=1, compute={"grid": "ray", "actors": 1}), list[bool]()

    def refuse(session: server_app.Session) -> None:
        assert isinstance(session.grid, RayGrid)
        seen.append(session.grid.local_server is not None)
        raise ValueError

    monkeypatch.setattr(server_app.Session, "run", refuse)
    with shared_ray.pool(1) as pool:
        group = ActorGroup(DatasetCache(), pool, serves_locally=True)
        with pytest.raises(RunFailed):
            serve(check(made), *group(made), Told())
        with Results.open(tmp_path) as results:
            run = replace(results.runs()[0], status=status, error=error)
        with pytest.raises(RunFailed):
            serve(check(made), *group(made), Told(), continued=Continued(run))
    assert seen == [True, here]


def test_where_ray_was_there_before_its_actors_train_alone(tmp_path: Path, shared_ray: SharedRay) -> None:
    made = [experiment(tmp_path, compute={"grid": "ray", "actors": 1})]
    with shared_ray.as_grids(), actor_groups(made, 1) as (group,):  # a Ray that is here already has its actors
        grid, _ = group(made[0])
        assert isinstance(grid, RayGrid)
        assert grid.local_server is None


ROOT = Path(__file__).parents[3]
SETTINGS: dict[str, Any] = {"rounds": 7, "client__correction": "control_variate", "server__strategy": "scaffold", "measure__every": 1}


class Switches(Told):
    """Has Ray start once round 1 is told of, and what follows round 3 wait until all actors are up.

    A round is told of when the next one has been trained, so at least rounds 5 to 7 are the actors'.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_start = threading.Event()
        self.grid: Any = None

    def round(self, row: Row) -> None:
        if row.round == 1:
            assert not self.grid.pool.has_ray()
            self.may_start.set()
        if row.round == 3:
            assert len(self.grid.pool.ready()) == 2


def run_that_switches(folder: Path) -> None:
    """A run whose clients keep states; it begins in this process, which has no Ray yet, and ends on actors. Writes its final model."""
    told, start, finish, ended = Switches(), session.start_private, RayGrid._finish, list[object]()

    def finish_counted(grid: RayGrid, reference: Any) -> None:
        ended.extend(shard for shard in grid._scheduler.calls[reference].shards if shard.kind == "train")
        finish(grid, reference)

    def start_late(*arguments: Any, **settings: Any) -> None:
        assert told.may_start.wait(HANG)
        start(*arguments, **settings)

    session.start_private, RayGrid._finish = start_late, finish_counted
    made = experiment(folder, **SETTINGS, compute={"grid": "ray", "actors": 2})
    with actor_groups([made], 1) as (group,):
        told.grid, dataset = group(made)
        result = run_on(check(made), told.grid, dataset, told)
    assert told.phases == ["round 1"]
    assert ended
    (folder / "w").write_bytes(result.w.numpy().tobytes())
    (folder / "losses").write_text(repr([row.measures["test_loss"] for row in result.rows]))


def test_a_run_that_begins_before_ray_is_up_ends_with_the_same_numbers(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.experiments.running.test_local_server import run_that_switches as run"
    subprocess.run([sys.executable, "-c", f"{code}; run(Path(sys.argv[1]))", tmp_path], cwd=ROOT, check=True, timeout=HANG)
    here = run(experiment(tmp_path / "here", **SETTINGS), Told())
    assert (tmp_path / "w").read_bytes() == here.w.numpy().tobytes()
    assert (tmp_path / "losses").read_text() == repr([row.measures["test_loss"] for row in here.rows])
