"""Our components as people and settings know them, read from a file that `experiments.settings.describing` made.

Importing the components takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Setting:
    """A hyperparameter as a person reads it.

    Attributes:
        default: Empty where it must be given.
        schema: Its JSON schema, with the default.
    """

    name: str
    default: str
    allowed: str
    meaning: str
    schema: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Description:
    """A component as a person reads it.

    Attributes:
        checks: Whether its class also checks hyperparameters against each other.
    """

    summary: str
    settings: tuple[Setting, ...]
    source: str
    checks: bool = False


class StepCostCells(NamedTuple):
    """Evaluations per example and step of a local optimizer: as its class declares and as counted, and the values that they depend on."""

    forward: str
    forward_measured: str
    backward: str
    backward_measured: str
    where: str


@cache
def of(kind: str) -> Mapping[str, Description]:
    """Our components of a kind of `fedsam.registry.Registry.kind`, by name."""
    return {
        name: Description(**{**entry, "settings": tuple(Setting(**setting) for setting in entry["settings"])})
        for name, entry in _read()["components"][kind].items()
    }


def step_costs() -> dict[str, StepCostCells]:
    """The costs of our local optimizers."""
    return {name: StepCostCells(**cells) for name, cells in _read()["step_costs"].items()}


def letters() -> dict[str, str]:
    """The letters in the costs of local optimizers, as `clients.optimizers.cost.LETTERS`."""
    found: dict[str, str] = _read()["letters"]
    return found


def method_costs() -> dict[str, list[float]]:
    """The costs of our methods, in the order of `experiments.settings.method_cost.MethodCost`."""
    costs: dict[str, list[float]] = _read()["method_costs"]
    return costs


def fitting() -> frozenset[str]:
    """Methods whose components fit together, each as `experiments.settings.resolved.signature` says it."""
    return frozenset(_read()["fitting"])


@cache
def _read() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content
