"""Runs that were stopped or killed go on from their checkpoints: to the same rows, and to a final model of the same bytes."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.callbacks.callback import Callback
from experiments.planning.resuming import Request, resume
from experiments.running import checkpointing
from experiments.running.checkpointing import FOLDER_NAME, Checkpointer
from experiments.running.grids import actor_groups
from experiments.running.scheduler import Outcome, perform
from experiments.settings.catalogue import check
from experiments.settings.presets import expand
from fedsam.checkpoints import checkpoints
from fedsam.config import ConfigError, Experiment
from fedsam.overrides import override
from fedsam.results.rows import Row
from fedsam.results.store import Results
from tests.support.content import content

SMALL: Mapping[str, Any] = {
    "rounds": 6,
    "model": "lenet5",
    "data": {"dataset": "digits", "clients": 6, "examples": 120},
    "client": {"optimizer": {"lr": 0.02}, "batch_size": 10, "steps": 2},
    "server": {"participation": 2},
    "compute": {"grid": "inline"},
    "measure": {"every": 2, "flatness": {"measures": ["average", "line"], "examples": 20, "draws": 2, "points": 3, "every": 3}},
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "fedavg with sam": {"client.optimizer": {"name": "sam", "lr": 0.02}},
    "scaffold with friendly sam": {
        "server.strategy": "scaffold",
        "client.correction": "control_variate",
        "client.optimizer": {"name": "fsam", "lr": 0.02},
    },
    "fedsmoo": {"method": "fedsmoo"},
    "fedadam with vsam and kept states": {
        "server.strategy": "fedadam",
        "client.optimizer": {"name": "vsam", "lr": 0.02, "warmup_steps": 3, "window": 3, "blocks": 2},
        "client.optimizer_state": "keep",
    },
}


def experiment(folder: Path, changes: Mapping[str, Any], **more: Any) -> Experiment:
    """A small run in this process."""
    named = {key.replace("__", "."): value for key, value in more.items()}
    return expand(override(SMALL, {**changes, **named, "runs_dir": str(folder)}))


def carry_out(settings: Experiment, callback: Callback | None = None) -> Outcome:
    """As `compare` does."""
    with actor_groups([settings], 1) as groups:
        (outcome,) = perform([check(settings)], groups, callback or Callback(), once=True)
    return outcome


class Told(Callback):
    """Keeps what it is told, and stops the run when so many rounds are stored."""

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after = stop_after
        self.warnings: list[str] = []
        self.resumed_rounds: list[int] = []
        self.checkpoints: list[int] = []

    def warn(self, run_id: str, text: str) -> None:
        self.warnings += [] if "no better than chance" in text else [text]  # as is to be expected of so few rounds

    def resumed(self, run_id: str, rows: Any) -> None:
        self.resumed_rounds.append(len(rows))

    def checkpointed(self, run_id: str, round: int, seconds: float) -> None:
        assert seconds > 0
        self.checkpoints.append(round)

    def round(self, row: Row) -> None:
        if row.round == self.stop_after:
            raise KeyboardInterrupt


def model(folder: Path, run: str | None) -> bytes:
    return (folder / str(run) / "model.safetensors").read_bytes()


def stopped(settings: Experiment, after: int, monkeypatch: pytest.MonkeyPatch, *, killed: bool = False) -> Told:
    """The run, stopped when so many rounds are stored; `killed`: without the checkpoint that is written at a stop."""
    told = Told(after)
    with monkeypatch.context() as patch:
        if killed:
            patch.setattr(Checkpointer, "stop", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            carry_out(settings, told)
    return told


@pytest.mark.parametrize("method", METHODS)
def test_what_was_stopped_and_killed_ends_as_if_it_had_not_been(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, settings = (experiment(tmp_path / name, METHODS[method], checkpoint__every=2) for name in "ab")
    whole = carry_out(undisturbed)
    assert stopped(settings, 3, monkeypatch, killed=True).checkpoints == [2]
    told = stopped(settings, 5, monkeypatch)
    assert (told.resumed_rounds, told.checkpoints) == ([1], [4])
    end = carry_out(settings, told := Told())
    assert (end.status, told.resumed_rounds, told.checkpoints, told.warnings) == ("finished", [3], [6], [])
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert model(tmp_path / "a", whole.run_id) == model(tmp_path / "b", end.run_id)


def resumed(folder: Path, run: str | None, told: Callback | None = None, *allowed: str, **changes: Any) -> Outcome:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return resume(str(run), folder, Request(named, allowed), told or Callback())


def test_a_run_without_a_checkpoint_is_begun_again_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, settings = (experiment(tmp_path / name, {}, rounds=4) for name in "ab")
    whole = carry_out(undisturbed)
    stopped(settings, 3, monkeypatch, killed=True)
    with Results.open(tmp_path / "b") as results:
        (run,) = results.runs()
        assert len(results.rounds(run.id)) == 3

    class Watch(Told):
        def round(self, row: Row) -> None:
            with Results.open(tmp_path / "b") as results:
                self.checkpoints.append(len(results.rounds(run.id)))

    end = resumed(tmp_path / "b", run.id, told := Watch())
    assert (end.run_id, end.status, told.resumed_rounds) == (run.id, "finished", [])
    assert told.checkpoints == [3, 3, 3, 4]  # nothing is deleted before its successor is there
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert model(tmp_path / "a", whole.run_id) == model(tmp_path / "b", run.id)


@pytest.mark.parametrize("every", [0, 2])
def test_a_finished_run_is_extended_to_what_a_longer_one_is(tmp_path: Path, every: int) -> None:
    short, long = (experiment(tmp_path / name, METHODS["fedsmoo"], rounds=rounds) for name, rounds in (("a", 4), ("b", 7)))
    short = short.model_copy(update={"checkpoint": short.checkpoint.model_copy(update={"every": every})})
    run, whole = carry_out(short), carry_out(long)
    with pytest.raises(ConfigError, match=f"run: {run.run_id} has finished, with 4 rounds; --rounds with more extends it"):
        resumed(tmp_path / "a", run.run_id)
    with pytest.raises(ConfigError, match=r"rounds: 3 is not allowed: run .* has 4 rounds"):
        resumed(tmp_path / "a", run.run_id, rounds=3)
    assert resumed(tmp_path / "a", run.run_id, told := Told(), rounds=7).status == "finished"
    assert told.resumed_rounds == ([3] if every else [])
    left, right = (content(tmp_path / name) for name in "ab")
    for found in (*left.values(), *right.values()):
        del found["run"]["config"]["checkpoint"]
    assert left == right
    assert model(tmp_path / "a", run.run_id) == model(tmp_path / "b", whole.run_id)


def test_what_a_run_depends_on_must_be_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = experiment(tmp_path, {"client.schedule": "cosine"}, checkpoint__every=1)
    stopped(settings, 3, monkeypatch)
    with Results.open(tmp_path) as results:
        (run,) = results.runs()
        results._connection.execute("UPDATE runs SET versions = json_set(versions, '$.torch', '1.0', '$.data_files', 'md5:0')")
    with pytest.raises(ConfigError) as refused:
        resumed(tmp_path, run.id, rounds=8, client__optimizer__lr=0.5, compute__cpus_per_actor=1, measure__every=2)
    lines = str(refused.value).splitlines()
    assert lines[:2] == [
        f"client.optimizer.lr: run {run.id} has 0.02, and here is 0.5",
        f"rounds: run {run.id} has 6, and here is 8, and client.schedule depends on it",
    ]
    assert lines[2].startswith("torch: '1.0' made the run, and here is '")
    assert lines[3].startswith("data_files: 'md5:0' made the run, and here is 'md5:")
    assert "--allow-changed rounds --allow-changed torch --allow-changed data_files goes on" in lines[4]
    assert len(lines) == 5
    assert carry_out(settings).run_id != run.id  # `compare` leaves it as it is, and begins another one
    with Results.open(tmp_path) as results:
        assert [one.status for one in results.runs()] == ["interrupted", "finished"]
    end = resumed(tmp_path, run.id, told := Told(), "torch", "data_files", "client.optimizer.lr", client__optimizer__lr=0.5)
    assert (end.status, told.resumed_rounds) == ("finished", [1])
    with Results.open(tmp_path) as results:
        changed, clean = results.runs()
        assert changed.config["client"]["optimizer"]["lr"] == 0.5
        assert changed.versions["changed midway"] == "client.optimizer.lr, torch, data_files"
        assert changed.versions["torch"] == clean.versions["torch"]
        assert changed.config_hash not in (run.config_hash, clean.config_hash)


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, settings = (experiment(tmp_path / name, METHODS["fedsmoo"], checkpoint__every=1) for name in "ab")
    whole = carry_out(undisturbed)
    stopped(settings, 4, monkeypatch)
    (folder,) = (tmp_path / "b").glob(f"*/{FOLDER_NAME}")
    with (folder / "00003" / "server.safetensors").open("r+b") as file:
        file.truncate(1000)
    carry_out(settings, told := Told())
    assert told.resumed_rounds == [1]
    (said,) = told.warnings
    assert "the one after round 2 is" in said
    assert "00003/server.safetensors is damaged" in said
    stopped(longer := settings.model_copy(update={"rounds": 9}), 4, monkeypatch)
    for damaged in (tmp_path / "b").glob(f"*/{FOLDER_NAME}/*/manifest.json"):
        damaged.write_bytes(damaged.read_bytes()[:-20])
    carry_out(longer, told := Told())
    assert told.resumed_rounds == []
    assert "no checkpoint can be used, and the run begins again with round 1" in told.warnings[0]
    assert model(tmp_path / "a", whole.run_id) == model(tmp_path / "b", folder.parent.name)


def test_a_checkpoint_that_cannot_be_written_is_warned_of_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    assert carry_out(experiment(tmp_path, {}, rounds=2, checkpoint__every=1), told := Told()).status == "finished"
    assert [text.partition(":")[0] for text in told.warnings] == [f"the checkpoint after round {n} could not be written" for n in (1, 2)]
    assert told.checkpoints == []


def test_checkpoints_by_time_are_seldom_enough_to_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that passes ten seconds with each look at it, so that a checkpoint takes some tens."""
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    carry_out(experiment(tmp_path / "a", {}, rounds=30, checkpoint__seconds=40.0), told := Told())
    assert told.checkpoints[0] == 4
    assert len(told.checkpoints) == 1  # the next one would be due after 1,500 seconds
    carry_out(experiment(tmp_path / "b", {}, rounds=30, checkpoint__seconds=0.0), told := Told())
    assert told.checkpoints == []
