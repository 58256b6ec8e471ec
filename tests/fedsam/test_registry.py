"""Parts: from a name and hyperparameters to the piece behind it, and errors that name them."""

from dataclasses import dataclass

import pytest

from fedsam.config import Component, ConfigError, NonNegative
from fedsam.registry import ClassContract, FunctionContract, Registry, build, resolve


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule with one hyperparameter."""

    rho: NonNegative = 0.1


RULES = Registry("rules", ClassContract(Rule), {"rule": Rule})


def scaled(x: int, *, factor: int = 2) -> int:
    """A function with one hyperparameter."""
    return x * factor


def test_parts_become_instances_or_bound_functions() -> None:
    assert build(RULES, Component(name="rule", rho=0.3), "k") == Rule(rho=0.3)
    assert resolve(RULES, Component(name="rule"), "k") == {"rho": 0.1}
    functions = Registry("functions", FunctionContract(("x",)), {"scaled": scaled})
    assert build(functions, Component(name="scaled", factor=5), "k")(2) == 10


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Component(name="rule", rho=-1), "client.optimizer.rho: -1 is not allowed: input should be greater than or equal to 0"),
        (Component(name="rule", roh=1), "client.optimizer.roh: unknown key, did you mean 'rho'"),
        (Component(name="rul"), "client.optimizer: 'rul' is not known, did you mean 'rule'"),
        (Component(name="rule", rho=float("nan")), "client.optimizer.rho"),
    ],
)
def test_bad_parts_are_named(part: Component, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(RULES, part, "client.optimizer")
    assert message in str(error.value)
