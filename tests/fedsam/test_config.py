"""The configuration: reading, overriding, and errors that name key, value and what is allowed."""

import os
from pathlib import Path
from typing import get_args

import pytest

from experiments.settings import shipped
from experiments.settings.presets import expand
from experiments.settings.sweep import expand as expand_sweep
from fedsam.config import Augmentation, Client, Component, ConfigError, Experiment, parse
from fedsam.data.augmentation import AUGMENTATIONS
from fedsam.overrides import override, read


def test_defaults_round_trip_through_json() -> None:
    experiment = parse({})
    assert parse(experiment.dump()) == experiment
    assert experiment.dumps() == parse(experiment.dump()).dumps()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clint": {}}, "clint: unknown key, did you mean 'client'"),
        ({"client": {"epoch": 3}}, "client.epoch: unknown key, did you mean 'epochs'"),
        ({"rounds": -1}, "rounds: -1 is not allowed: input should be greater than or equal to 1"),
        ({"server": {"participation": 1.5}}, "server.participation: 1.5 is not allowed"),
        ({"data": {"partition": 3}}, "data.partition: 3 is not allowed"),
        ({"data": {"root": "a\0b"}}, r"data.root: 'a\x00b' is not allowed: must be a path"),
        ({"rounds": 10**30}, "is not allowed: input should be less than 9223372036854775808"),
        ({"rounds": 10**5000}, "rounds: a number of more than 4300 digits is not allowed"),
        ({"client": {"batch_size": 1e20}}, "client.batch_size: 1e+20 is not allowed"),
        ({"simulate": {"dropout": 10**5000}}, "simulate.dropout: a number of more than 4300 digits is not allowed"),
        ({"simulate": {"speed": {"value": 1e9}}}, "simulate.speed.name: must be given"),
        ({"name": "x" * 999 + "\ud800", "method": 3}, "method: 3 is not allowed"),
        ({"data": {"augment": ["x"]}}, "data.augment.0: 'x' is not allowed: input should be 'crop', 'flip' or 'cutout'"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(settings)
    assert message in str(error.value)


def test_every_wrong_key_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse({"rounds": 0, "seed": -1})
    assert str(error.value).count("is not allowed") == 2


def test_hyperparameters_alone_are_those_of_the_default_component() -> None:
    given = {
        "data": {"partition": {"alpha": 0.1}},
        "model": {"norm": "batch"},
        "client": {"optimizer": {"lr": 0.05}, "correction": {"mu": 1.0}, "schedule": {}},
        "server": {"strategy": {"lr": 0.5}},
    }
    experiment = parse(given)
    assert experiment.data.partition == Component(name="dirichlet", alpha=0.1)
    assert experiment.model == Component(name="cnn", norm="batch")
    assert experiment.client.optimizer == Component(name="sgd", lr=0.05)
    assert experiment.client.correction == Component(name="none", mu=1.0)
    assert experiment.client.schedule == Component(name="constant")
    assert experiment.server.strategy == Component(name="fedavg", lr=0.5)


def test_wrong_values_from_python_are_errors_of_the_settings() -> None:
    for make, message in (
        (lambda: Experiment(rounds=-1), "rounds: -1 is not allowed"),
        (lambda: Client(epoch=3), "epoch: unknown key, did you mean 'epochs'"),
        (lambda: Experiment(client={"epochs": 0}), "client.epochs: 0 is not allowed"),
        (lambda: Component(rho=0.1), "name: must be given"),
        (lambda: Component(name="sam", rho=object()), "rho: a value of type object is not allowed"),
        (lambda: parse({"data": {"dataset": {"name": "mine:x", "y": object()}}}), "y: a value of type object is not allowed"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_foreign_values_are_named_by_type_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSAM_TEST_SECRET", "sesame")
    for key in ("name", "rounds", "model", "client.optimizer", "client.optimizer.rho", "data", "data.dataset", "server.sampling"):
        for make in (parse, expand, expand_sweep):
            for more in ({}, {"method": "fedsam"}):
                with pytest.raises(ConfigError) as error:
                    make(tables({key: os.environ}) | more)
                assert "sesame" not in str(error.value)


def tables(settings: dict) -> dict:
    ((key, value),) = settings.items()
    for step in reversed(key.split(".")):
        value = {step: value}
    return value


def test_a_part_may_be_given_by_name_alone() -> None:
    assert parse({"client": {"optimizer": "sam"}}).client.optimizer == Component(name="sam")


def test_overrides_reach_into_a_part_given_by_name(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text('[client]\noptimizer = "sam"\n')
    settings = read(path, ["client.optimizer.rho=0.2", "data.clients=7", "name=a b"])
    assert settings == {"client": {"optimizer": {"name": "sam", "rho": 0.2}}, "data": {"clients": 7}, "name": "a b"}


def test_overriding_leaves_the_original_alone() -> None:
    settings = {"client": {"epochs": 1}}
    assert override(settings, {"client.epochs": 2}) == {"client": {"epochs": 2}}
    assert settings == {"client": {"epochs": 1}}


@pytest.mark.parametrize("text", ["rho", "=3"])
def test_a_malformed_override_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "e.toml"
    path.write_text("")
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        read(path, [text])


def test_missing_and_malformed_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        read(tmp_path / "nowhere.toml")
    for wrong in ("rounds = = 3", f"rounds = {'9' * 5000}"):
        (tmp_path / "bad.toml").write_text(wrong)
        with pytest.raises(ConfigError, match=r"bad\.toml: not TOML"):
            read(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match=r"^rounds: '9{199}\.\.\. is not allowed"):
        read(shipped.configs()["quickstart"], [f"rounds={'9' * 5000}"])


def test_a_file_is_utf8_whatever_the_locale_and_may_begin_with_a_byte_order_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    monkeypatch.setattr("locale.getencoding", lambda: "ascii")
    path = tmp_path / "e.toml"
    path.write_bytes(b"\xef\xbb\xbf" + 'name = "Größe"'.encode())
    assert read(path) == {"name": "Größe"}


@pytest.mark.parametrize("depth", [40, 900, 5000])
def test_tables_nested_too_deep_are_refused_in_files_and_on_the_command_line(tmp_path: Path, depth: int) -> None:
    path, lists, key = tmp_path / "e.toml", "[" * depth + "]" * depth, ".".join("a" * depth)
    for text in (f"a = {lists}", f"[{key}]\nb = 1"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="nested more than 30 deep are not allowed"):
            read(path)
    path.write_text("")
    for text in (f"data={lists}", f"{key}.b=1"):
        with pytest.raises(ConfigError, match="nested more than 30 deep are not allowed"):
            read(path, [text])


def test_every_augmentation_that_can_be_chosen_is_done() -> None:
    assert set(AUGMENTATIONS) == set(get_args(Augmentation))
