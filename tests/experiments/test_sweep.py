"""Sweeps: what a file with a table [sweep] expands to."""

import pytest

from experiments.sweep import expand
from fedsam.config import ConfigError


def test_every_combination_for_every_seed() -> None:
    experiments = expand({"sweep": {"data": {"clients": [5, 9]}, "client.optimizer.name": ["sgd", "sam"], "seeds": [0, 1]}})
    assert [(e.data.clients, e.client.optimizer.name, e.seed) for e in experiments] == [
        (clients, name, seed) for clients in (5, 9) for name in ("sgd", "sam") for seed in (0, 1)
    ]


def test_without_a_sweep_there_is_one_experiment() -> None:
    assert [e.rounds for e in expand({"rounds": 3})] == [3]


def test_a_hyperparameter_goes_to_the_swept_names_that_have_it() -> None:
    sgd, sam = expand({"client": {"optimizer": {"rho": 0.1, "lr": 0.2}}, "sweep": {"client.optimizer.name": ["sgd", "sam"]}})
    assert sgd.client.optimizer.settings == {"lr": 0.2}
    assert sam.client.optimizer.settings == {"lr": 0.2, "rho": 0.1}


def test_a_point_that_is_the_same_experiment_is_run_once() -> None:
    swept = expand({"sweep": {"client.optimizer.name": ["sgd", "sam"], "client.optimizer.rho": [0.1, 0.2]}})
    assert [e.client.optimizer.settings for e in swept] == [{}, {"rho": 0.1}, {"rho": 0.2}]


def test_whole_parts_can_be_swept() -> None:
    swept = expand({"sweep": {"client.optimizer": ["sgd", {"name": "sam", "rho": 0.3}]}})
    assert [e.client.optimizer.settings for e in swept] == [{}, {"rho": 0.3}]


def test_presets_can_be_swept() -> None:
    assert [e.client.optimizer.name for e in expand({"sweep": {"method": ["fedavg", "fedsam"]}})] == ["sgd", "sam"]


@pytest.mark.parametrize("values", [3, [], "sam"])
def test_what_is_no_list_is_refused(values: object) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.rounds: .* is not allowed: must be a list"):
        expand({"sweep": {"rounds": values}})
