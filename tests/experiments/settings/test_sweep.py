"""Sweeps: what a file with a table [sweep] expands to."""

import hashlib

import pytest

from experiments.settings import shipped
from experiments.settings.catalogue import resolved
from experiments.settings.sweep import expand
from fedsam.config import ConfigError
from fedsam.overrides import override, read
from fedsam.results.config_hash import config_hash


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


def test_zipped_keys_vary_together_and_groups_multiply() -> None:
    groups = [{"data.clients": [5, 50], "server": {"participation": [2, 20]}}, {"rounds": [3, 4], "measure.every": [1, 2]}]
    swept = expand({"sweep": {"client.optimizer.name": ["sgd", "sam"], "zip": groups, "seeds": [0, 1]}})
    assert [(e.client.optimizer.name, e.data.clients, e.server.participation, e.rounds, e.measure.every, e.seed) for e in swept] == [
        (name, *clients, *rounds, seed)
        for name in ("sgd", "sam")
        for clients in ((5, 2), (50, 20))
        for rounds in ((3, 1), (4, 2))
        for seed in (0, 1)
    ]


def test_a_zipped_hyperparameter_goes_to_the_names_that_have_it() -> None:
    swept = expand({"sweep": {"zip": [{"client.optimizer.name": ["sgd", "sam"], "client.optimizer.rho": [0.0, 0.2]}]}})
    assert [e.client.optimizer.settings for e in swept] == [{}, {"rho": 0.2}]


def test_a_table_comes_before_what_is_inside_it() -> None:
    swept = expand({"sweep": {"client.optimizer.lr": [0.1, 0.2], "client.optimizer": ["sgd", "sam"]}})
    assert [(e.client.optimizer.name, e.client.optimizer.settings) for e in swept] == [
        (name, {"lr": lr}) for lr in (0.1, 0.2) for name in ("sgd", "sam")
    ]


def test_overrides_win_over_presets_and_the_later_one_over_the_earlier() -> None:
    overrides = [
        {"when": {"method": "fedadam"}, "set": {"client.optimizer.lr": 0.01, "rounds": 7}},
        {"when": {"method": "fedadam", "data.clients": 5}, "set": {"rounds": 9}},
    ]
    swept = expand({"sweep": {"method": ["fedavg", "fedadam"], "data.clients": [5, 10], "overrides": overrides}})
    assert [e.client.optimizer.settings.get("lr") for e in swept] == [None, None, 0.01, 0.01]
    assert [e.rounds for e in swept] == [30, 30, 9, 7]


def test_when_sees_what_a_preset_and_a_default_say() -> None:
    overrides = [
        {"when": {"client.optimizer": "sam", "data.clients": 100}, "set": {"rounds": 2}},
        {"when": {"client": {"optimizer": {"name": "sgd"}}}, "set": {"rounds": 3}},
    ]
    assert [e.rounds for e in expand({"sweep": {"method": ["fedavg", "fedsam", "fedprox"], "overrides": overrides}})] == [3, 2, 3]


SAM_RHO = {"when": {"client.optimizer.name": "sam"}, "set": {"client.optimizer.rho": 0.3}}


@pytest.mark.parametrize(
    ("fixed", "got"),
    [
        ({"client.optimizer.name": "sam"}, [(5, 2, 0.3), (50, 20, 0.3)]),
        ({"client.optimizer": "sgd"}, [(5, 2, None), (50, 20, None)]),
        ({"data.clients": 30}, [(30, 2, None), (30, 20, None), (30, 2, 0.3), (30, 20, 0.3)]),
        ({"data.clients": 30, "server.participation": 3}, [(30, 3, None), (30, 3, 0.3)]),
        ({"client.optimizer.name": "sam", "client.optimizer.rho": 0.7}, [(5, 2, 0.7), (50, 20, 0.7)]),
    ],
)
def test_what_is_typed_is_swept_and_overridden_no_more(fixed: dict[str, object], got: list[tuple[object, ...]]) -> None:
    group = {"data.clients": [5, 50], "server.participation": [2, 20]}
    sweep = {"client.optimizer.name": ["sgd", "sam"], "zip": [group], "overrides": [SAM_RHO]}
    swept = expand(override({"sweep": sweep}, fixed), fixed)
    assert [(e.data.clients, e.server.participation, e.client.optimizer.settings.get("rho")) for e in swept] == got


def test_a_typed_setting_of_a_swept_table_and_a_typed_seed_hold() -> None:
    fixed = {"client.optimizer.lr": 0.5, "seed": 7}
    swept = expand(override({"sweep": {"client.optimizer": [{"name": "sam", "lr": 0.1}, "sgd"], "seeds": [0, 1]}}, fixed), fixed)
    assert [(e.client.optimizer.settings["lr"], e.seed) for e in swept] == [(0.5, 7), (0.5, 7)]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"zip": [{"rounds": [1, 2], "seed": [1]}]}, r"sweep\.zip\[1\]: .*'rounds': 2, 'seed': 1.* must be equally long"),
        ({"zip": {"rounds": [1]}}, r"sweep\.zip: .* must be tables \[\[sweep\.zip\]\] of lists"),
        ({"zip": [{"rounds": 3}]}, r"sweep\.zip\[1\]\.rounds: 3 is not allowed: must be a list"),
        ({"rounds": [1], "zip": [{"rounds": [2]}]}, r"sweep\.zip\[1\]\.rounds: is swept twice"),
        ({"seeds": [1], "zip": [{"seed": [2]}]}, r"sweep\.seed: is swept twice"),
        ({"zap": [{"rounds": [2]}]}, r"zap: unknown key"),
        ({"overrides": {"when": {}}}, r"sweep\.overrides: .* must be tables"),
        ({"overrides": [{"when": {"rounds": 3}}]}, r"sweep\.overrides\[1\]: .* `when` and `set`"),
        ({"overrides": [{"when": {"rounds": 3}, "set": {}}]}, r"sweep\.overrides\[1\]: .* `when` and `set`"),
        ({"overrides": [{"when": {"rounds": 3}, "set": {"seed": 1}}]}, r"sweep\.overrides\[1\]\.when: \{'rounds': 3\} fits no point"),
        ({"overrides": [{"when": {"rounds": 30}, "set": {"client.optimiser": 1}}]}, r"client\.optimiser: unknown key"),
        (3, "sweep: 3 is not allowed: must be a table"),
    ],
)
def test_mistakes_are_named(sweep: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand({"sweep": sweep})


@pytest.mark.parametrize(
    ("name", "digest"),
    [("compare", "97e397902eb1"), ("methods", "5ec252d98616"), ("optimizers", "410daf9a10cd"), ("quickstart", "d505cc141831")],
)
def test_stored_runs_of_our_configs_are_found_again(name: str, digest: str) -> None:
    """The hashes under which databases know these experiments: a change here makes `compare` repeat every run of every user."""
    hashes = [config_hash(resolved(experiment)) for experiment in expand(read(shipped.configs()[name]))]
    assert hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12] == digest
