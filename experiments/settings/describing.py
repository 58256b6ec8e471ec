"""What `experiments.settings.descriptions` reads, made of the components themselves.

`python -m experiments.settings.describing` writes the file anew; a test compares it with the components.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from clients.optimizers import OPTIMIZERS
from clients.optimizers.base import LocalOptimizer
from clients.optimizers.cost import LETTERS
from experiments.settings import shipped, step_cost
from experiments.settings.catalogue import REGISTRIES, TABLES, check
from experiments.settings.descriptions import FILE, Description, Setting, StepCostCells
from experiments.settings.method import Method
from experiments.settings.method_cost import cost
from experiments.settings.presets import PRESETS, expand
from experiments.settings.resolved import METHOD, signature
from experiments.settings.sweep import expand as expand_sweep
from fedsam import overrides, wording
from fedsam.config import ConfigError, Experiment
from fedsam.documentation import descriptions, schemas
from fedsam.registry import Registry, hyperparameters
from strategies.robust import FlowerRule

Entry = Callable[..., Any]


def describe(entry: Entry, leading: int | None = None) -> Description:
    """A component as a person reads it; `leading` as for `hyperparameters`."""
    return Description(summary(entry), tuple(settings_of(entry, leading)), source(entry), "__post_init__" in dir(entry))


def settings_of(entry: Entry, leading: int | None = None) -> Iterator[Setting]:
    """The hyperparameters of a component, in the order of its signature; `leading` as for `hyperparameters`."""
    meanings = descriptions(entry)
    for name, schema in schemas(hyperparameters(entry, leading)).items():
        default = wording.value(schema["default"]) if "default" in schema else ""
        yield Setting(name, default, wording.allowed(schema), meanings.get(name, ""), {k: v for k, v in schema.items() if k != "title"})


def summary(entry: Entry) -> str:
    """The first sentence of an entry's docstring, joined to one line."""
    return " ".join((inspect.getdoc(entry) or "").partition("\n\n")[0].split())


def source(entry: Entry) -> str:
    """Where an entry comes from, as it declares; empty when it does not."""
    declared = getattr(entry, "__dict__", {}).get("source")
    return f"Source: {declared}" if declared else ""


def step_cost_cells(name: str, optimizer: type[LocalOptimizer]) -> StepCostCells:
    """Evaluations per step of a local optimizer: as declared beside as counted."""
    built, got, variables = step_cost.on_toy(name, optimizer)
    declared = step_cost.declared(optimizer)
    forward, backward = (_equation(*pair) for pair in zip(declared.texts(), declared.evaluations(built, variables), strict=True))
    names = dict.fromkeys([*re.findall(r"[A-Za-z]\w*", " ".join(declared.texts())), *step_cost.PUBLISHED.get(name, {})])
    values = ", ".join(f"{key} = {wording.value(getattr(variables if hasattr(variables, key) else built, key))}" for key in names)
    where = "\n".join(filter(None, [values, declared.note]))
    return StepCostCells(forward, f"{got.forward:.4g}", backward, f"{got.backward:.4g}", where)


def made() -> dict[str, Any]:
    """The content of the file."""
    registries = {kind: registry for kind, registry in TABLES.items() if isinstance(registry, Registry)}
    ours = {kind: {name: describe(entry) for name, entry in registry.items()} for kind, registry in registries.items()}
    return {
        "components": {kind: {name: dataclasses.asdict(one) for name, one in described.items()} for kind, described in ours.items()},
        "step_costs": {name: step_cost_cells(name, optimizer)._asdict() for name, optimizer in OPTIMIZERS.items()},
        "letters": LETTERS,
        "method_costs": {name: _method_cost(expand({"method": name})) for name in PRESETS},
        "fitting": sorted({signature(experiment, ours.__getitem__) for experiment in _tried() if _fits(experiment)}),
    }


def text(content: dict[str, Any]) -> str:
    """The content as the text of the file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _equation(formula: str, value: float) -> str:
    """A formula with its value, which a plain number is already."""
    return formula if formula.isdigit() else f"{formula} = {value:.4g}"


def _method_cost(experiment: Experiment) -> list[float]:
    return list(dataclasses.astuple(cost(Method.of(experiment), experiment.rounds)))


def _tried() -> Iterator[Experiment]:
    """The methods, the shipped configs, and each part of a method beside the plainest others; each with and without a budget."""
    alone = [{key: name} for key in METHOD for name in REGISTRIES[key]]
    settings = [{"method": name} for name in PRESETS] + [overrides.override({}, part) for part in alone]
    ours = [experiment for path in shipped.configs().values() for experiment in expand_sweep(shipped.of_one_seed(path))]
    for experiment in [*map(expand, settings), *ours]:
        for budget in (None, 1000):
            yield experiment.model_copy(update={"budget": budget})


def _fits(experiment: Experiment) -> bool:
    try:
        return not isinstance(check(experiment.model_copy(update={"method": None})).method.rule, FlowerRule)
    except ConfigError:
        return False


if __name__ == "__main__":
    FILE.write_text(text(made()), encoding="utf-8")
