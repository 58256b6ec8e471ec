"""Sweeps: what a file with a table [sweep] expands to."""

import hashlib

import pytest

from experiments.settings import shipped
from experiments.settings.catalogue import check, resolved
from experiments.settings.sweep import expand
from fedsam.config import ConfigError, Experiment
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


def test_a_typed_list_of_values_may_leave_out_those_of_an_override() -> None:
    overrides = [{"when": {"method": "fedprox"}, "set": {"rounds": 2}}, {"when": {"method": "fedsam"}, "set": {"rounds": 3}}]
    settings = {"sweep": {"method": ["fedavg", "fedsam"], "overrides": overrides}}
    with pytest.raises(ConfigError, match=r"overrides\[1\]\.when: .*fedprox.* fits no point"):
        expand(settings)
    assert [experiment.rounds for experiment in expand(settings, {"sweep.method"})] == [30, 3]


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
        ({"zap": [{"rounds": [2]}]}, r"sweep\.zap: unknown key, did you mean 'zip'"),
        ({"sedes": [1]}, r"sweep\.sedes: unknown key, did you mean 'seeds'"),
        ({"zip": [{"clint.epochs": [1]}]}, r"sweep\.zip\[1\]\.clint\.epochs: unknown key, did you mean 'client'"),
        (
            {"overrides": [{"when": {"sede": 1}, "set": {"rounds": 1}}]},
            r"sweep\.overrides\[1\]\.when\.sede: unknown key, did you mean 'seed'",
        ),
        ({"client.optimizer.name": [["sam"], "sgd"]}, r"client\.optimizer\.name: \[\['sam'\], 'sgd'\] is not allowed in a sweep"),
        ({"method": [["fedsam"]]}, r"method: \['fedsam'\] is not allowed"),
        ({"client.optimizer.name": ["fedprox"]}, r"'fedprox' is not known: it is a method: method = \"fedprox\""),
        ({"seeds": [1], "max_runs": 0}, r"sweep\.max_runs: 0 is not allowed"),
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


def test_points_are_counted_before_they_are_made() -> None:
    twelve = {f"measure.flatness.{name}": [0.1 * n for n in range(1, 11)] for name in ("rho", "rho_adaptive", "rho_average")}
    twelve |= {f"client.optimizer.x{number}": list(range(10)) for number in range(9)}
    with pytest.raises(
        ConfigError, match=r"sweep: 10 x 10 x .* = 1000000000000 runs are not allowed: at most 1000, or as many as sweep\.max_runs"
    ):
        expand({"sweep": twelve})
    with pytest.raises(ConfigError, match="3 runs are not allowed: at most 2"):
        expand({"sweep": {"seeds": [0, 1, 2], "max_runs": 2}})
    assert len(expand({"sweep": {"seeds": list(range(1001)), "max_runs": 2000}})) == 1001


def test_what_stands_there_twice_is_run_once_with_a_warning() -> None:
    said = list[str]()
    assert [e.seed for e in expand({"sweep": {"seeds": [0, 1, 0]}}, warn=said.append)] == [0, 1]
    assert said == ["sweep: seed = 0 stands there more than once, and is run once"]
    with pytest.warns(UserWarning, match="seed = 0 stands there more than once"):
        expand({"sweep": {"seeds": [0, 0]}})
    group = {"data.clients": [5, 50, 5], "server.participation": [1, 1, 1.0]}
    assert len(expand({"sweep": {"zip": [group]}}, ["data.clients"], said.append)) == 2
    assert len(said) == 1


@pytest.mark.parametrize("first", [{}, {"sweep": {}}, {"client": {"optimizer": "sam"}}])
def test_whatever_is_typed_twice_the_last_one_holds(first: dict) -> None:
    assert len(expand(first, ["sweep", "client.optimizer.name", "client.optimizer.name.x"])) == 1


@pytest.mark.parametrize(
    ("key", "name", "hint"),
    [
        ("server.strategy", "fedprox", 'it is a method: method = "fedprox"'),
        ("client.optimizer", "adam", 'it is the base of a local optimizer: client.optimizer = { name = "sgd", base = "adamw" }'),
        ("client.optimizer", "scaffold", 'it is a method: method = "scaffold" or it is a server strategy: server.strategy = "scaffold"'),
        ("model", "cifar10", 'it is a dataset: data.dataset = "cifar10"'),
        ("method", "sam", 'it is a local optimizer: client.optimizer = "sam"'),
    ],
)
def test_a_name_that_belongs_elsewhere_is_told_where(key: str, name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(expand(override({}, {key: name}))[0])
    assert f"{key}: '{name}' is not known: {hint}; allowed: " in str(error.value)


def test_an_experiment_that_leaves_settings_to_its_preset_is_refused() -> None:
    """Made of keywords it is not expanded: it would run as another method than it is called."""
    with pytest.raises(ConfigError, match="the settings of method 'fedsam' must be written out"):
        check(Experiment(method="fedsam"))
    assert check(expand({"method": "fedsam", "client": {"optimizer": "sgd"}})[0]).method.optimizer.lr == 0.1


@pytest.mark.parametrize(
    ("name", "digest"),
    [("compare", "9072b91174df"), ("methods", "0094ace884ca"), ("optimizers", "e0b74dd117af"), ("quickstart", "4642439c2c59")],
)
def test_stored_runs_of_our_configs_are_found_again(name: str, digest: str) -> None:
    """The hashes under which databases know these experiments: a change here makes `compare` repeat every run of every user."""
    hashes = [config_hash(resolved(experiment)) for experiment in expand(read(shipped.configs()[name]))]
    assert hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12] == digest
