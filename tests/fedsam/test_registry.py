"""Registries: from a name and hyperparameters to what the name stands for, and errors that name them."""

from dataclasses import dataclass

import pytest

from fedsam.config import Component, ConfigError, Named, NonNegative
from fedsam.registry import ClassContract, FunctionContract, Registry, build, hyperparameters, resolve


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule with one hyperparameter."""

    rho: NonNegative = 0.1


RULE = Component(name="rule")
RULES = Registry("rules", ClassContract(Rule), {"rule": Rule})


def scaled(x: int, *, factor: int = 2) -> int:
    """A function with one hyperparameter."""
    return x * factor


def test_components_become_instances_or_bound_functions() -> None:
    assert build(RULES, Component(name="rule", rho=0.3), "k") == Rule(rho=0.3)
    assert resolve(RULES, Component(name="rule"), "k") == {"rho": 0.1}
    functions = Registry("functions", FunctionContract(("x",)), {"scaled": scaled})
    assert build(functions, Component(name="scaled", factor=5), "k")(2) == 10


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Component(name="rule", rho=-1), "client.optimizer.rho: -1 is not allowed: input should be greater than or equal to 0"),
        (Component(name="rule", roh=1), "client.optimizer.roh: unknown key, did you mean 'rho'"),
        (Component(name="rul"), "client.optimizer: 'rul' is not known, did you mean 'rule'"),
        (Component(name="rule", rho=float("nan")), "client.optimizer.rho"),
    ],
)
def test_bad_components_are_named(component: Component, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(RULES, component, "client.optimizer")
    assert message in str(error.value)


def test_hyperparameters_alone_are_those_of_the_default_component_inside() -> None:
    def wrapping(x: int, *, inner: Named = RULE) -> int:
        return x

    functions = Registry("functions", FunctionContract(("x",)), {"wrapping": wrapping})
    assert resolve(functions, Component(name="wrapping", inner={"rho": 0.3}), "k") == {"inner": Component(name="rule", rho=0.3)}


def test_the_class_of_hyperparameters_is_made_once() -> None:
    assert hyperparameters(Rule) is hyperparameters(Rule)
    assert set(hyperparameters(scaled, 1).model_fields) == {"factor"}
    assert set(hyperparameters(scaled, 0).model_fields) == {"x", "factor"}
    assert set(hyperparameters(scaled, 0, ("x",)).model_fields) == {"factor"}


@dataclass
class Called:
    """An object that is called, and has no hash."""

    base: int

    def __call__(self, x: int, *, factor: int = 2) -> int:
        return self.base + x * factor


def test_an_object_that_is_called_may_have_no_hash() -> None:
    functions = Registry("functions", FunctionContract(("x",)), {"called": Called(1)})
    assert build(functions, Component(name="called", factor=5), "k")(2) == 11
