"""What is shipped about our components: that it is still true, and what is filled in with it without importing them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experiments.settings import describing, descriptions, shipped, step_cost
from experiments.settings.catalogue import resolved
from experiments.settings.presets import PRESETS, expand
from experiments.settings.resolved import resolve
from experiments.settings.sweep import expand as expand_sweep
from fedsam import overrides
from fedsam.config import ConfigError, Experiment


def test_the_file_says_what_the_components_are() -> None:
    """Otherwise: `python -m experiments.settings.describing` writes it anew."""
    assert describing.text(describing.made()) == descriptions.FILE.read_text(encoding="utf-8")


def test_declared_and_counted_costs_agree() -> None:
    costs = descriptions.step_costs()
    for cells in costs.values():
        assert cells.forward.rpartition("= ")[2] == cells.forward_measured
        assert cells.backward.rpartition("= ")[2] == cells.backward_measured
    looksam, esam = costs["looksam"], costs["esam"]
    assert (looksam.forward, looksam.backward, looksam.where) == ("0", "1 + 1/k = 1.2", "k = 5")
    assert (esam.forward, esam.backward) == ("1", "1 + gamma - 1/B = 1.375")
    assert esam.where == "gamma = 0.5, B = 8, beta = 0.6\nfrom gamma = 0.99 on 0 forward, 2 forward and backward"


def test_shares_that_depend_on_the_training_are_within_their_limits() -> None:
    shares = {name: step_cost.on_toy(name, describing.OPTIMIZERS[name])[2].p for name in ("vsam", "aesam")}
    assert 0 < shares["vsam"] <= 0.8
    assert 0 < shares["aesam"] < 1


def experiments() -> list[Experiment]:
    """Those of all methods and shipped configs."""
    methods = [expand({"method": name, "client": {"optimizer": {"lr": 1}}}) for name in PRESETS]
    return [*methods, *(one for path in shipped.configs().values() for one in expand_sweep(shipped.of_one_seed(path)))]


def test_defaults_are_filled_in_as_by_the_components() -> None:
    for experiment in experiments():
        found = resolve(experiment)
        assert json.dumps(found) == json.dumps(resolved(experiment))


@pytest.mark.parametrize(
    "settings",
    [
        {"client.optimizer": {"name": "sam", "rho": -1.0}},
        {"client.optimizer": {"name": "sam", "rho": float("inf")}},
        {"client.optimizer": {"name": "sam", "roh": 0.1}},
        {"client.optimizer": {"name": "gsam", "rho": 0.1, "rho_min": 0.2}},
        {"client.optimizer": "smap"},
        {"client.optimizer": "fedlesam"},
        {"client.correction": "control_variate"},
        {"client.schedule": "cosine", "budget": 1000},
        {"data.dataset": "cifar"},
        {"data.dataset": "folder:PATH"},
        {"data.dataset": {"name": "cifar10", "image_size": 8}},
        {"data.fallback": "digit"},
        {"data.partition.alpha": 0.0},
        {"model": "lenet"},
        {"server.participation": 11},
        {"server.quorum": 6},
        {"server.strategy": {"name": "scaffold", "inner": "fedavgg"}},
        {"simulate.speed": {"name": "uniform", "low": 2.0, "high": 1.0}},
    ],
)
def test_what_is_wrong_is_left_to_the_components(settings: dict[str, Any]) -> None:
    experiment = expand(overrides.override({"data": {"clients": 10}, "server": {"participation": 5}}, settings))
    assert resolve(experiment) is None
    with pytest.raises(ConfigError):
        resolved(experiment)
