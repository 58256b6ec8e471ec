"""Runs that were stopped or killed go on from their checkpoints: to the same rows, and to a final model of the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.running.callback import Callback
from experiments.running.checkpointing import Checkpointer
from experiments.running.grids import actor_groups
from experiments.running.scheduler import Outcome, perform
from experiments.settings.catalogue import check
from experiments.settings.presets import expand
from fedsam.config import Experiment
from fedsam.overrides import override
from fedsam.results.rows import Row
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
        self.warnings.append(text)

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
