"""The names of components by kind, read from the source of the registries: importing them takes seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from fedsam.imports import ROOT


class Kind(NamedTuple):
    """A kind of components: what one is called, the setting that names one, and the variables that hold them, by module."""

    noun: str
    setting: str
    tables: Mapping[str, str]


KINDS = {
    "optimizers": Kind("local optimizer", "client.optimizer", {"clients.optimizers": "OPTIMIZERS"}),
    "corrections": Kind("correction", "client.correction", {"clients.corrections": "CORRECTIONS"}),
    "strategies": Kind("server strategy", "server.strategy", {"strategies": "STRATEGIES"}),
    "partitions": Kind("partition", "data.partition", {"fedsam.data.partition": "PARTITIONS"}),
    "models": Kind("model", "model", {"fedsam.models.architectures": "MODELS"}),
    "datasets": Kind("dataset", "data.dataset", {"fedsam.data.datasets": "DATASETS", "fedsam.data.own_data": "FORMATS"}),
    "schedules": Kind("schedule", "client.schedule", {"fedsam.schedules": "SCHEDULES"}),
    "distributions": Kind("distribution", "simulate.speed", {"fedsam.system.heterogeneity": "DISTRIBUTIONS"}),
    "samplers": Kind("sampler", "server.sampling", {"strategies.sampling": "SAMPLERS"}),
}
ADAM = 'it is the base of a local optimizer: client.optimizer = { name = "sgd", base = "adamw" }'


def names(kind: str) -> list[str]:
    """The names of a kind, in the order of its registry."""
    return [name for name, _, _ in _components(kind)]


def meanings(kind: str) -> dict[str, str]:
    """The names of a kind, each with the first paragraph of its docstring in one line."""
    return {name: _paragraph(module, component) for name, module, component in _components(kind)}


def hint(name: str) -> str:
    """What else a name stands for, and how that is set; empty where it is the name of no component."""
    kinds = [kind for key, kind in KINDS.items() if name in names(key)]
    hints = [f'it is a {kind.noun}: {kind.setting} = "{name}"' for kind in kinds]
    return " or ".join([*hints, ADAM] if name in ("adam", "adamw") else hints)


def _components(kind: str) -> Iterator[tuple[str, str, str]]:
    """For each component of a kind its name, the module of the registry, and what the component is called in that module."""
    for module, variable in KINDS[kind].tables.items():
        form = "{}:PATH" if variable == "FORMATS" else "{}"
        yield from ((form.format(name), module, component) for name, component in _entries(module, variable))


def _entries(module: str, variable: str) -> Iterator[tuple[str, str]]:
    for statement in _source(module).body:
        words = (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr) and next(words, None) == variable:  # assigned, or updated
            for table in [node for node in ast.walk(statement) if isinstance(node, ast.Dict)]:
                yield from ((ast.literal_eval(key), ast.unparse(value)) for key, value in zip(table.keys, table.values, strict=True) if key)


def _paragraph(module: str, component: str) -> str:
    """The first paragraph of a component's docstring; the module defines the component, or imports it from the one that does."""
    for statement in _source(module).body:
        if isinstance(statement, ast.ImportFrom) and component in {alias.name for alias in statement.names}:
            return _paragraph(str(statement.module), component)
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == component:
            return " ".join((ast.get_docstring(statement) or "").partition("\n\n")[0].split())
    raise LookupError(f"{module} has no {component}")


@cache
def _source(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
