"""Callbacks that an experiment names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedsam
from fedsam.config import ConfigError
from fedsam.overrides import override
from fedsam.results.store import Results

SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "model": "lenet5",
    "data": {"dataset": "digits", "clients": 4, "examples": 120},
    "client": {"batch_size": 20},
    "server": {"participation": 2},
    "compute": {"grid": "inline"},
}
TOLD = """
import json
import fedsam

class Told(fedsam.Callback):
    def __enter__(self):
        self.events = []
        return self

    def __exit__(self, *error):
        with open("told.jsonl", "a") as file:
            file.write(json.dumps(self.events) + "\\n")

    def started(self, run_id, experiment):
        self.events.append(["started", experiment.seed])

    def round(self, row):
        self.events.append(["round", row.round])

    def finished(self, run_id, status, error):
        self.events.append([status, error])

class Refusing(fedsam.Callback):
    def started(self, run_id, experiment):
        raise OSError("no network")

class Broken(fedsam.Callback):
    def __init__(self, where):
        pass

def no_class():
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "telling.py").write_text(TOLD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]


def test_each_run_has_callbacks_of_its_own_wherever_it_is_made(folder: Path) -> None:
    settings = SETTINGS | {"callbacks": ["telling:Told", "tensorboard"]}
    fedsam.run(settings, fedsam.Callback())
    events = [["round", 1], ["round", 2], ["finished", None]]
    assert told(folder) == [[["started", 0], *events]]
    fedsam.compare(settings | {"sweep": {"seeds": [1, 2]}}, fedsam.Callback(), parallel=2)
    assert sorted(told(folder)[1:]) == [[["started", seed], *events] for seed in (1, 2)]
    assert len(list(folder.glob("runs/*/tensorboard/events*"))) == 3


def test_who_is_told_makes_no_other_experiment(folder: Path) -> None:
    fedsam.run(SETTINGS, fedsam.Callback())
    fedsam.run(SETTINGS | {"callbacks": ["telling:Told"]}, fedsam.Callback())
    with Results.open("runs") as results:
        first, second = results.runs()
        assert first.config_hash == second.config_hash
        assert first.versions == second.versions


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights", "callbacks: 'weights' is not known; allowed: tensorboard, mlflow, wandb, module:attribute"),
        ("telling:no_class", "callbacks: 'telling:no_class' is not allowed: must be a class that is derived from fedsam.Callback"),
        ("nowhere:Told", "callbacks: 'nowhere:Told' is not allowed: there is no module nowhere"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_starts(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fedsam.run(override(SETTINGS, {"callbacks": [name]}))
    assert not (folder / "runs").exists()


def test_a_callback_that_cannot_be_made_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"callbacks: 'telling:Broken' is not allowed: it ended with TypeError: .*'where'"):
        fedsam.run(SETTINGS | {"callbacks": ["telling:Broken"]})


def test_a_run_whose_callback_cannot_start_has_failed(folder: Path) -> None:
    with pytest.raises(OSError, match="no network"):
        fedsam.run(SETTINGS | {"callbacks": ["tensorboard", "telling:Refusing"]}, fedsam.Callback())
    with Results.open("runs") as results:
        assert [(run.status, run.error) for run in results.runs()] == [("failed", "OSError: no network")]
