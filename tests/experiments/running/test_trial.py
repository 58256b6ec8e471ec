"""What cannot work is an error of the settings: nothing starts, no run is recorded, and a trial leaves no trace."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clients.optimizers.base import Gradient, State, Step
from clients.optimizers.sgd import SGD
from experiments import run
from experiments.running import trial
from experiments.running.grids import actor_groups
from experiments.settings.presets import PRESETS, expand
from fedsam.config import ConfigError, Experiment, parse
from fedsam.overrides import override
from tests.support.networks import tiny

NETWORKS = "tests.support.networks"
SMALL: dict[str, Any] = {
    "rounds": 1,
    "model": f"{NETWORKS}:tiny",
    "data": {"dataset": "digits", "clients": 4, "examples": 184, "partition": "iid"},
    "client": {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 45},
    "server": {"participation": 4},
    "measure": {"union": False},
    "compute": {"grid": "inline"},
}


def settings(**changes: Any) -> dict[str, Any]:
    return override(SMALL, {key.replace("__", "."): value for key, value in changes.items()})


def starts(experiment: Experiment) -> None:
    """Start what a run starts, and stop it."""
    with actor_groups([experiment], 1):
        pass


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": f"{NETWORKS}:lazy"}, r"0\.weight has no shape yet, as it is of a lazy layer"),
        (
            {"model": f"{NETWORKS}:Pair"},
            r"for images of shape \(45, 1, 32, 32\) it gives a tuple, not a tensor of scores of shape \(45, 10\)",
        ),
        ({"model": f"{NETWORKS}:headless"}, r"it gives torch\.float32 of shape \(45, 11\), not a tensor of scores of shape \(45, 10\)"),
        (
            {"model": f"{NETWORKS}:for_mnist"},
            r"it ended with RuntimeError: .*shapes cannot be multiplied \(45x1024 and 784x10\)",
        ),
        ({"client__optimizer": f"{__name__}:Broken"}, "it ended with ZeroDivisionError"),
        ({"compute__gpus_per_actor": 99}, r"compute\.gpus_per_actor: 99 is not allowed: torch finds \d+ GPUs here"),
        ({"compute__gpus_per_actor": 99, "compute__grid": "ray"}, r"compute\.gpus_per_actor: 99 is not allowed"),
    ],
)
def test_what_cannot_work_is_an_error_of_the_settings(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(settings(runs_dir=str(tmp_path / "runs"), **changes))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, r"client\.last_batch: 'keep' is not allowed here: the last batch of client 0 is a single example \(46 in batches of 45\)"),
        ({"client__batch_size": 1, "client__last_batch": "merge"}, r"client\.batch_size: 1 is not allowed"),
        ({"data__examples": 4, "client__last_batch": "drop"}, r"data\.partition: .* client 0 has one example"),
    ],
)
def test_a_model_that_cannot_train_on_one_example_meets_none(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        starts(parse(settings(model=f"{NETWORKS}:normed_mlp", **changes)))


@pytest.mark.parametrize(("last_batch", "passed"), [("drop", 45), ("merge", 46)])
def test_the_last_batch_can_be_dropped_or_merged(tmp_path: Path, last_batch: str, passed: int) -> None:
    result = run(settings(runs_dir=str(tmp_path), model=f"{NETWORKS}:normed_mlp", client__last_batch=last_batch))
    (row,) = result.rows
    assert (row.steps, row.examples, row.gradient_evaluations) == (4, 4 * passed, 4 * passed)


def test_steps_that_end_before_the_last_batch_do_not_meet_it() -> None:
    starts(parse(settings(model=f"{NETWORKS}:normed_mlp", client__steps=1)))


@pytest.mark.parametrize("method", PRESETS)
def test_every_method_can_be_tried_on_few_examples(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, step = list[int](), trial._step
    monkeypatch.setattr(trial, "_step", lambda e, dataset, examples: tried.append(examples) or step(e, dataset, examples))
    starts(expand(SMALL | {"method": method, "client": {"batch_size": 45}}))
    assert tried == [2]


def test_what_needs_a_whole_batch_gets_one() -> None:
    starts(parse(settings(client__optimizer=f"{__name__}:Demanding")))


def test_a_trial_leaves_all_generators_as_they_were() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    starts(parse(settings(model=f"{__name__}:Noisy")))
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_experiments_that_differ_in_numbers_alone_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, step = list[Experiment](), trial._step
    monkeypatch.setattr(trial, "_step", lambda e, dataset, examples: tried.append(e) or step(e, dataset, examples))
    each = [
        parse(settings(client__optimizer={"name": name, "lr": lr}, seed=seed))
        for name in ("sgd", "sam")
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    with actor_groups(each, 1):
        pass
    assert [e.client.optimizer.name for e in tried] == ["sgd", "sam"]


@dataclass(frozen=True, kw_only=True)
class Broken(SGD):
    """Fails at its first step."""

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """None."""
        return super().gradient(w / (1 // 0), state, step)


@dataclass(frozen=True, kw_only=True)
class Demanding(SGD):
    """Needs many examples."""

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """Refuses few."""
        if step.batch.size < 40:
            raise ValueError("too few examples")
        return super().gradient(w, state, step)


class Noisy(nn.Module):
    """Draws from every global generator in a pass."""

    def __init__(self, image: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.body = tiny(image, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Noisy scores."""
        scores: Tensor = self.body(x)
        return scores + random.random() + np.random.rand() + torch.rand(())
