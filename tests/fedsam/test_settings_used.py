"""Every setting has an effect: a small run, the start of actors and a report read each of them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.analysis.comparison import compare_runs
from experiments.callbacks.progress import ConsoleCallback
from experiments.running import actors
from experiments.running.server_app import run
from fedsam.config import Compute, Experiment, Frozen, Published, parse
from fedsam.results.store import Results
from tests.support.recorded import add

TABLES = [table for table in Frozen.__subclasses__() if table.__module__ == Experiment.__module__]  # of a run; not of [tune]
# These read all settings of a kind alike, whatever becomes of them.
CHECKS = {("experiments.settings.catalogue", "_named"), ("experiments.settings.compatibility", "_names")}
# Read by reports, from what is stored of a run.
REPORTED = {("Measure", "target"), ("Experiment", "published"), *(("Published", key) for key in Published.model_fields)}
SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "data": {"dataset": "digits", "clients": 4, "examples": 80},
    "model": "lenet5",
    "client": {"batch_size": 10, "steps": 1, "optimizer": {"name": "sgd", "lr": 0.01}},
    "server": {"participation": 2},
    "compute": {"grid": "inline"},
    "measure": {
        "flatness": {
            "measures": ["top", "trace", "worst", "worst_adaptive", "average", "average_adaptive", "line"],
            "examples": 20,
            "eigenvalues": 1,
            "probes": 2,
            "iterations": 1,
            "draws": 1,
            "points": 3,
        }
    },
}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """(table, key) of each setting that code other than `CHECKS` has read."""
    found = set[tuple[str, str]]()

    def record(self: Frozen, name: str) -> Any:
        if name in type(self).__pydantic_fields__:
            caller = sys._getframe(1)
            if (caller.f_globals["__name__"], caller.f_code.co_name) not in CHECKS:
                found.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Frozen, "__getattribute__", record, raising=False)
    return found


def start_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for the actors of a cluster, on a Ray that is not there."""

    @contextmanager
    def no_session(address: str | None, cpus: int | None, lost: object) -> Iterator[dict[str, float]]:
        yield {"CPU": 4.0}

    monkeypatch.setattr(actors, "ray_session", no_session)
    monkeypatch.setattr(actors, "check_nodes", lambda: None)
    monkeypatch.setattr(actors, "ActorPool", lambda load, **settings: settings)
    with actors.actor_pool(Compute(ray_address="auto", allow_unauthenticated_cluster=True, actors=2), lambda: None) as pool:
        assert pool == {"actors": 2, "cpus": 1, "gpus": 0.0, "memory": None}


def test_every_setting_is_read(tmp_path: Path, read: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    with ConsoleCallback(Console(file=io.StringIO())) as callback:
        run(parse({**SETTINGS, "runs_dir": str(tmp_path)}), callback)
    start_actors(monkeypatch)
    assert {(table.__name__, key) for table in TABLES for key in table.model_fields} - read == REPORTED


def test_reports_read_what_is_stored_of_a_run(runs_dir: Path) -> None:
    with Results.open(runs_dir) as results:
        add(results, [0.2, 0.4], measure__last=1, measure__target=0.3)
        found = compare_runs(results, results.runs())
    assert found.entries[0].evaluations_averaged == 1
    assert found.target_accuracy == 0.3
