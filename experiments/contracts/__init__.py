"""Contracts: what every component of a kind must do, as checks that run on any component."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clients.corrections import CORRECTIONS
from clients.optimizers import OPTIMIZERS
from experiments.contracts import corrections, datasets, models, numbers, optimizers, partitions, samplers, strategies
from experiments.contracts.base import Check, CheckedComponent, ContractError, NotApplicable, NotDeclared
from fedsam import plugins
from fedsam.config import ConfigError
from fedsam.data import datasets as known_datasets
from fedsam.data.datasets import DATASETS
from fedsam.data.own_data import FACTORIES
from fedsam.data.partition import PARTITIONS
from fedsam.models.architectures import MODELS
from fedsam.registry import ClassContract, FunctionContract, Registry
from fedsam.renamed import current_name
from fedsam.schedules import SCHEDULES
from fedsam.system.heterogeneity import DISTRIBUTIONS
from fedsam.wording import nearest
from strategies import STRATEGIES
from strategies.robust import FlowerRule
from strategies.sampling import SAMPLERS

__all__ = ["KINDS", "Check", "CheckedComponent", "ContractError", "Finding", "Kind", "checks", "examine", "find"]

Verdict = Literal["ok", "failed", "not declared", "left out"]


@dataclass(frozen=True)
class Kind:
    """One kind of component.

    Attributes:
        noun: The kind in the singular.
        registry: Its components by name, and the requirements on others.
        checks: The contract of the kind.
    """

    noun: str
    registry: Registry[Any]
    checks: tuple[Check, ...]


KINDS: dict[str, Kind] = {
    "optimizer": Kind("local optimizer", OPTIMIZERS, optimizers.CHECKS),
    "correction": Kind("correction", CORRECTIONS, corrections.CHECKS),
    "strategy": Kind("server strategy", STRATEGIES, strategies.CHECKS),
    "partition": Kind("partition", PARTITIONS, partitions.CHECKS),
    "schedule": Kind("schedule", SCHEDULES, numbers.SCHEDULE_CHECKS),
    "distribution": Kind("distribution", DISTRIBUTIONS, numbers.DISTRIBUTION_CHECKS),
    "sampler": Kind("sampler", SAMPLERS, samplers.CHECKS),
    "model": Kind("model", MODELS, models.CHECKS),
    "dataset": Kind("dataset", FACTORIES, datasets.CHECKS),
}


@dataclass(frozen=True)
class Finding:
    """The outcome of a check; `text` explains a verdict other than `ok`."""

    verdict: Verdict
    text: str = ""


def find(
    name: str, kind: str | None = None, settings: Mapping[str, Any] | None = None, beside: Mapping[str, Any] | None = None
) -> CheckedComponent:
    """The component of a name: one of fedsam, one that an installed package registers, or `module:attribute`.

    Args:
        kind: A key of `KINDS`; default: inferred from its base class or its first parameters.
        settings: Its hyperparameters.
        beside: Other settings, by dotted key, of the experiment in which it is run.

    Raises:
        ConfigError: There is no such thing, its kind cannot be told, or a hyperparameter is wrong or missing.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind: {kind!r} is not known{nearest(kind, list(KINDS))}; allowed: {', '.join(KINDS)}")
    found = kind or (kind_of(plugins.load(name, "component"), name) if ":" in name else _kind_of_name(name))
    component = CheckedComponent(found, current_name(KINDS[found].registry.kind, name), KINDS[found].registry, settings or {}, beside or {})
    if found == "dataset":
        known_datasets.check(component.component)
    else:
        component.make()
    return component


def kind_of(entry: object, name: str) -> str:
    """The kind of a class, by its base class, or of a function, by its first parameters. Raises `ConfigError` where neither tells."""
    arguments = _arguments(entry)
    for kind, known in KINDS.items():
        contract = known.registry.contract
        if isinstance(contract, ClassContract):
            if isinstance(entry, type) and issubclass(entry, contract.base):
                return kind
        elif isinstance(contract, FunctionContract) and arguments[: contract.leading or None] == contract.arguments:
            return kind
    expected = "; ".join(f"{kind}: {known.registry.contract.expected}" for kind, known in KINDS.items())
    raise ConfigError(f"{name!r} is not allowed: neither its base class nor its first parameters tell its kind. Say --kind. {expected}")


def checks(component: CheckedComponent) -> tuple[Check, ...]:
    """The checks of the kind of a component."""
    flower = component.kind == "strategy" and issubclass(component.entry, FlowerRule)
    return strategies.FLOWER_CHECKS if flower else KINDS[component.kind].checks


def examine(component: CheckedComponent, check: Check) -> Finding:
    """Run a check; any exception of the component is a failure."""
    try:
        check.run(component)
    except ContractError as error:
        return Finding("failed", str(error))
    except NotDeclared as reason:
        return Finding("not declared", str(reason))
    except NotApplicable as reason:
        return Finding("left out", str(reason))
    except Exception as error:
        return Finding("failed", f"{type(error).__name__}: {error} ({_place(error)})")
    return Finding("ok")


def _place(error: Exception) -> str:
    """The file and line that raised an error, the innermost outside installed packages."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def _arguments(entry: object) -> tuple[str, ...]:
    """Names of the positional parameters of a callable; `?` where its signature is unknown."""
    try:
        parameters = inspect.signature(entry).parameters.values() if callable(entry) else []
    except (TypeError, ValueError):
        return ("?",)
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _kind_of_name(name: str) -> str:
    """The kind that has the name, registered by fedsam or an installed package. Raises `ConfigError` unless there is exactly one."""
    kinds = [
        kind
        for kind, known in KINDS.items()
        if current_name(known.registry.kind, name) in known.registry
        or name in plugins.entry_points(known.registry.kind)
        or (kind == "dataset" and name in DATASETS)
    ]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise ConfigError(f"{name!r} is a {' and a '.join(kinds)}: say --kind")
    names = [*(entry for known in KINDS.values() for entry in known.registry), *DATASETS]
    raise ConfigError(f"{name!r} is not known{nearest(name, names)}: give module:attribute, or a name that `fedsam list` shows")
