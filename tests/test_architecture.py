"""The rules of the house that a machine can check: layers, docstrings, forbidden calls, settings without effect."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsam import config

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fedsam", "clients", "strategies", "experiments")

# Imports point to a lower number, or stay within clients, strategies or experiments.
LAYERS = {
    "fedsam": 0,
    "fedsam.config": 0,
    "fedsam.data.augmentation": 0,
    "fedsam.data.dataset": 0,
    "fedsam.models.flat": 0,
    "fedsam.evaluation.loss": 0,
    "fedsam.messages.flower_private": 0,
    "fedsam.imports": 0,
    "fedsam.data.flwr_partition": 0,
    "fedsam.data.own_data": 0,
    "fedsam.registry": 0,
    "fedsam.plugins": 0,
    "fedsam.results.provenance": 0,
    "fedsam.schedules": 0,
    "fedsam.seeds": 0,
    "fedsam.messages.codec": 0,
    "fedsam.results.database": 1,
    "fedsam.datasets": 1,
    "fedsam.data.download": 0,
    "fedsam.models": 1,
    "fedsam.evaluation.hessian": 1,
    "fedsam.evaluation.sharpness": 1,
    "fedsam.system.heterogeneity": 1,
    "fedsam.models.network": 1,
    "fedsam.data.partition": 1,
    "fedsam.merge": 1,
    "fedsam.grid.session": 1,
    "fedsam.results.rows": 1,
    "fedsam.evaluation.accuracy": 2,
    "fedsam.data.federated": 2,
    "fedsam.evaluation.flatness": 2,
    "fedsam.system.cost": 2,
    "fedsam.results.store": 2,
    "fedsam.grid.actor": 2,
    "fedsam.results.model_files": 3,
    "fedsam.grid.base": 3,
    "fedsam.grid.pool": 3,
    "fedsam.grid.ray_grid": 4,
    "fedsam.grid.cluster": 1,
    "fedsam.grid.flower_app": 1,
    "fedsam.grid.synchronized": 1,
    "clients": 5,
    "strategies": 5,
    "experiments": 6,
    "fedsam.__main__": 7,
}
FACE = "fedsam"  # what users import from here lies above it: imported for type checkers alone, and found when it is used
FORBIDDEN = {"pickle.load", "pickle.loads", "torch.load", "time.sleep", "NotImplementedError"}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def layer(module: str) -> int:
    """The layer of a module; the parts of clients, strategies and experiments share one."""
    package = module.partition(".")[0]
    name = module if package == "fedsam" else package
    assert name in LAYERS, f"{module} has no layer: give it one in LAYERS"
    return LAYERS[name]


def tree(module: str) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(MODULES[module].read_text())


def imported(module: str) -> Iterator[str]:
    """The modules of our packages that a module imports, wherever it does so; for `FACE`, unless only type checkers see it."""
    for node in executed(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: import by full name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def executed(module: str) -> Iterator[ast.AST]:
    """Every node of a module's syntax tree; of `FACE`, without `if TYPE_CHECKING`."""
    body = [node for node in tree(module).body if module != FACE or not (isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING")]
    for node in body:
        yield from ast.walk(node)


def public(body: list[ast.stmt], path: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """The public functions, classes and methods of a module, with their dotted paths."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_") and not told(node):
            yield f"{path}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{path}.{node.name}")


def told(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether another definition documents this one: the getter of a property, the function behind overloads."""
    return any(dotted(decorator).endswith((".setter", "overload")) for decorator in node.decorator_list)


def settings() -> Iterator[tuple[str, str]]:
    """(table, key) of every setting of an experiment."""
    for model in config.Frozen.__subclasses__():
        yield from ((model.__name__, key) for key in model.model_fields)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    package, highest = module.partition(".")[0], 2 if layer(module) == 5 else layer(module) - 1
    for target in imported(module):
        within = package != "fedsam" and target.partition(".")[0] == package
        same_layer_0 = package == "fedsam" and layer(module) == layer(target) == 0
        assert within or same_layer_0 or layer(target) <= highest, f"{module} imports {target}"


@pytest.mark.parametrize("module", MODULES)
def test_public_things_have_docstrings(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    bare = [path for path, node in public(tree(module).body, module) if not ast.get_docstring(node)]
    assert not bare


@pytest.mark.parametrize("module", MODULES)
def test_nothing_forbidden(module: str) -> None:
    found = {dotted(node) for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute | ast.Name)} & FORBIDDEN
    names = {f"{node.module}.{alias.name}" for node in ast.walk(tree(module)) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not found | (names & FORBIDDEN)


def test_every_setting_is_used() -> None:
    others = [tree(module) for module in MODULES if module != "fedsam.config"]
    nodes = [node for module in others for node in ast.walk(module)]
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        node.value for node in nodes if isinstance(node, ast.Constant)
    }
    unused = [f"{table}.{key}" for table, key in settings() if key not in used]
    assert not unused


def test_every_layer_exists() -> None:
    assert set(LAYERS) <= set(MODULES)
