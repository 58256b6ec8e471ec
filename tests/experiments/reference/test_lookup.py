from __future__ import annotations

import pytest

from experiments.reference.lookup import Hyperparameter, find
from experiments.reference.settings import Setting, Table, settings, tables
from experiments.settings import names
from experiments.settings.describing import settings_of
from experiments.settings.sweep import SPECIAL
from fedsam.config import ConfigError, Experiment
from fedsam.overrides import flatten
from strategies import STRATEGIES


def test_every_setting_of_an_experiment_is_there_once_with_a_meaning():
    found = settings()
    plain = {key.removesuffix(".name") for key in flatten(Experiment().dump())}
    assert plain <= set(found)
    assert {f"sweep.{key}" for key in SPECIAL} <= set(found)
    assert len(found) == sum(len(table.settings) for table in tables())
    assert not [setting.key for setting in found.values() if not (setting.meaning and setting.allowed)]


def test_every_kind_of_component_is_named_by_a_setting():
    assert {setting.kind for setting in settings().values()} - {""} == set(names.KINDS)


def test_a_setting_has_its_default_and_its_range():
    found = find("server.participation")
    assert isinstance(found, Setting)
    assert (found.default, found.allowed) == ("0.1", "whole number >= 1 | number > 0, <= 1")
    assert find("tune.sampler").allowed == "tpe | random | grid"
    assert find("tune.space").allowed == "table"
    assert find("data.augment").allowed == "list of (crop | flip | cutout) | unset"


def test_a_table_comes_before_those_inside_it():
    keys = [table.key for table in tables()]
    assert keys.index("measure") + 1 == keys.index("measure.flatness")
    assert isinstance(find("measure.flatness"), Table)


def test_a_hyperparameter_is_told_for_the_components_that_declare_it_alike():
    found = find("client.optimizer.rho")
    assert isinstance(found, Hyperparameter)
    of = {name: use for use in found.uses for name in use.names}
    assert of["sam"] == of["esam"] != of["asam"]
    assert (of["sam"].default, of["asam"].default) == ("0.05", "0.5")
    assert "sgd" not in of


def test_a_component_inside_another_has_the_hyperparameters_of_its_kind():
    found = find("server.strategy.inner.inner.beta2")
    assert isinstance(found, Hyperparameter)
    declaring = [name for name, rule in STRATEGIES.items() if "beta2" in {setting.name for setting in settings_of(rule)}]
    assert [name for use in found.uses for name in use.names] == declaring


def test_the_name_of_a_component_is_its_setting():
    assert find("client.optimizer.name") == find("client.optimizer")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("rho", "did you mean measure.flatness.rho or client.optimizer.rho"),
        ("client.optimiser.rho", "did you mean client.optimizer.rho"),
        ("server.particpation", "did you mean server.participation"),
        ("sam", 'it is a local optimizer: client.optimizer = "sam"'),
        ("client.epochs.more", "`fedsam explain` lists all settings"),
        ("", "`fedsam explain` lists all settings"),
    ],
)
def test_what_is_not_known_is_an_error_with_what_may_be_meant(key: str, said: str):
    with pytest.raises(ConfigError, match="is not known") as error:
        find(key)
    assert said in str(error.value)
