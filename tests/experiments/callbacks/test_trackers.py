"""MLflow and Weights & Biases, with stand-ins for their packages, which are not installed here: what they are told, and how runs end."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import fedsam
from experiments.callbacks.mlflow import MlflowCallback
from experiments.callbacks.wandb import WandbCallback
from fedsam.config import ConfigError
from strategies.round import DivergedError
from tests.experiments.callbacks.test_named import SETTINGS


class Calls(list[tuple[Any, ...]]):
    """Notes the calls of its methods, of any name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **options: self.append((name, *arguments, *options.values()))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()

    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> None:
            calls.asked(name)

        def create_experiment(self, name: str) -> str:
            return "7"

        def create_run(self, place: str, run_name: str) -> Any:
            calls.created(place, run_name)
            return SimpleNamespace(info=SimpleNamespace(run_id="there"))

        def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
            calls.params(run, dict(params)) if params else calls.metrics(run, {name: (value, step) for name, value, _, step in metrics})

        def set_terminated(self, run: str, status: str) -> None:
            calls.ended(run, status)

    package, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    package.MlflowClient = MlflowClient
    entities.Param = entities.Metric = lambda *values: values
    monkeypatch.setattr("experiments.callbacks.tracker.require", lambda *_: None)
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return calls


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls, package = Calls(), ModuleType("wandb")

    def init(**options: Any) -> Calls:
        calls.init(options)
        return calls

    package.init, package.Settings = init, lambda **options: options
    monkeypatch.setattr("experiments.callbacks.tracker.require", lambda *_: None)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


def test_mlflow_has_settings_rounds_and_the_end(mlflow: Calls, tmp_path: Path) -> None:
    result = fedsam.run(SETTINGS | {"callbacks": ["mlflow"], "runs_dir": tmp_path}, fedsam.Callback())
    asked, created, (_, _, params), *rounds, ended = mlflow
    assert (asked, created, ended) == (("asked", "fedsam"), ("created", "7", result.run_id), ("ended", "there", "FINISHED"))
    assert (params["rounds"], params["data.dataset"]) == ("2", "digits")
    for row, (_, _, metrics) in zip(result.rows, rounds, strict=True):
        assert metrics["measures/test_accuracy"] == (row.measures["test_accuracy"], row.round)
    assert rounds[1][2]["costs/gradient_evaluations"] == (sum(row.gradient_evaluations for row in result.rows), 2)


def test_a_run_that_diverges_has_failed_there(mlflow: Calls, wandb: Calls, tmp_path: Path) -> None:
    settings = SETTINGS | {"callbacks": ["mlflow", "wandb"], "runs_dir": tmp_path}
    with pytest.raises(DivergedError):
        fedsam.run(settings | {"client": {"batch_size": 20, "optimizer": {"lr": 1e30}}}, fedsam.Callback())
    assert (mlflow[-1], wandb[-1]) == (("ended", "there", "FAILED"), ("finish", 1))


def test_wandb_is_offline_in_the_folder_of_the_run(wandb: Calls, tmp_path: Path) -> None:
    result = fedsam.run(SETTINGS | {"callbacks": ["wandb"], "runs_dir": tmp_path}, fedsam.Callback())
    (_, options), *rounds, ended = wandb
    assert {name: options[name] for name in ("project", "name", "mode", "reinit", "dir")} == {
        **{"project": "fedsam", "name": result.run_id, "mode": "offline", "reinit": "create_new"},
        "dir": str(tmp_path / result.run_id),
    }
    assert options["config"]["data"]["clients"] == 4
    assert [(name, values["measures/test_loss"], step) for name, values, step in rounds] == [
        ("log", row.measures["test_loss"], row.round) for row in result.rows
    ]
    assert ended == ("finish", 0)


@pytest.mark.parametrize("kind", [MlflowCallback, WandbCallback])
def test_without_the_package_nothing_starts(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    name = kind.__module__.rpartition(".")[2]
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=f"{name}: needs the package {name}, .*: pip install {name}"):
        kind()
