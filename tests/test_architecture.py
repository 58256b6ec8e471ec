"""The rules of the house that a machine can check: rooms and their imports, sizes, docstrings, forbidden calls."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from statistics import median
from types import FunctionType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fedsam", "clients", "strategies", "experiments")

ROOT_OF_FEDSAM = "fedsam"  # the modules of fedsam/ itself, which everything may import
BELOW = {ROOT_OF_FEDSAM, "fedsam.models", "fedsam.data", "fedsam.messages", "fedsam.evaluation", "fedsam.system"}
EVERYTHING = BELOW | {"fedsam.results", "fedsam.checkpoints", "fedsam.grid", "clients", "strategies"}
WATCHED = EVERYTHING | {"experiments.callbacks"}
# What the modules of a room may import besides those of their own room.
ROOMS: dict[str, set[str]] = {
    ROOT_OF_FEDSAM: set(),
    "fedsam.models": {ROOT_OF_FEDSAM},
    "fedsam.data": {ROOT_OF_FEDSAM},
    "fedsam.messages": {ROOT_OF_FEDSAM},
    "fedsam.results": {ROOT_OF_FEDSAM, "fedsam.models"},
    "fedsam.checkpoints": {ROOT_OF_FEDSAM, "fedsam.results"},
    "fedsam.evaluation": {ROOT_OF_FEDSAM, "fedsam.data", "fedsam.models"},
    "fedsam.system": {ROOT_OF_FEDSAM, "fedsam.models"},
    "fedsam.grid": {ROOT_OF_FEDSAM, "fedsam.messages"},
    "clients": BELOW,
    "strategies": BELOW,
    "experiments.settings": EVERYTHING,
    "experiments.callbacks": EVERYTHING | {"experiments.settings"},
    "experiments.running": WATCHED | {"experiments.settings"},
    "experiments.analysis": EVERYTHING,
    "experiments.reporting": EVERYTHING | {"experiments.analysis"},
    "experiments.reference": BELOW | {"experiments.settings", "experiments.tuning"},
    "experiments.watching": WATCHED | {"experiments.analysis", "experiments.reporting"},
    "experiments.planning": WATCHED | {"experiments.settings", "experiments.running", "experiments.analysis"},
    "experiments.tuning": WATCHED | {"experiments.settings", "experiments.running", "experiments.analysis", "experiments.planning"},
    "experiments.diagnostics": EVERYTHING | {"experiments.running", "experiments.analysis"},
    "experiments.contracts": WATCHED | {"experiments.settings", "experiments.running"},
    "experiments.benchmarks": WATCHED | {"experiments.settings", "experiments.running", "experiments.reporting"},
    "experiments.project_template": EVERYTHING | {"experiments.contracts", "experiments"},
    "experiments.api": WATCHED | {f"experiments.{room}" for room in ("settings", "running", "analysis", "planning", "tuning", "reporting")},
    "experiments.cli": WATCHED
    | {
        f"experiments.{room}"
        for room in (
            *("settings", "running", "planning", "tuning", "reference", "reporting", "watching"),
            *("diagnostics", "contracts", "benchmarks"),
        )
    },
    "experiments.documentation": EVERYTHING | {"experiments.settings", "experiments.reference", "experiments.cli"},
}
# What users import from or start: above everything else, whose names they find when they are used.
FACES = {"fedsam", "fedsam.__main__", "experiments"}
LONGEST, MEDIAN, MOST = 300, 120, 15  # lines of a module; modules of a folder
ONE_FILE_EACH = {"clients/optimizers", "strategies", "experiments/cli/commands"}  # folders that grow with the methods or the commands
FORBIDDEN = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "time.sleep", "NotImplementedError"}
EXEMPT = {"fedsam.data.cifar": {"pickle.Unpickler"}}  # of FORBIDDEN: its reader admits arrays alone

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def room(module: str) -> str:
    """The room of a module: the longest key of `ROOMS` that it is in."""
    if module in MODULES and module.count(".") == 1 and module.startswith("fedsam.") and MODULES[module].name != "__init__.py":
        return ROOT_OF_FEDSAM
    names = [module.rsplit(".", cut)[0] for cut in range(module.count(".") + 1)]
    found = next((name for name in names if name in ROOMS and name != ROOT_OF_FEDSAM), None)
    assert found, f"{module} is in no room: give it one in ROOMS"
    return found


def tree(module: str) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(MODULES[module].read_text())


def imported(module: str) -> Iterator[str]:
    """The modules of our packages that a module imports, wherever it does so."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: import by full name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def public(owner: ModuleType | type, path: str) -> Iterator[tuple[str, object]]:
    """The public functions, classes and methods that a module or class defines, with their dotted paths."""
    module = getattr(owner, "__module__", path)
    for name, value in list(vars(owner).items()):  # pydantic finishes a class when it is looked at
        is_default = getattr(value, "__name__", "") == "<lambda>"  # of a dataclass's field
        is_defined = isinstance(value, property | classmethod | staticmethod | FunctionType) or inspect.isclass(value)
        if name.startswith("_") or is_default or not is_defined or getattr(value, "__module__", module) != module:
            continue
        yield f"{path}.{name}", getattr(owner, name)
        if inspect.isclass(value) and not issubclass(value, Enum):
            yield from public(value, f"{path}.{name}")


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("module", [module for module in MODULES if module not in FACES])
def test_a_room_imports_what_it_may(module: str) -> None:
    allowed = {room(module), *ROOMS[room(module)]}
    wrong = [target for target in imported(module) if (target if target in FACES else room(target)) not in allowed]
    assert not wrong, f"{module}, in the room {room(module)}, imports {', '.join(wrong)}"


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions count: they are for what takes long to import, and hide no circle."""
    graph = {module: set(imported(module)) - {module} for module in MODULES if module not in FACES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_modules_are_short_and_folders_small() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert not {module: length for module, length in lengths.items() if length > LONGEST}
    assert median(lengths.values()) <= MEDIAN
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in MODULES.values() if path.name != "__init__.py")
    assert not {folder: count for folder, count in folders.items() if count > MOST and folder not in ONE_FILE_EACH}


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("experiments.project_template")])
def test_public_things_have_docstrings(module: str) -> None:
    """A method that overrides a documented one inherits its docstring."""
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    bare = [path for path, value in public(import_module(module), module) if not inspect.getdoc(value)]
    assert not bare


@pytest.mark.parametrize("module", MODULES)
def test_nothing_forbidden(module: str) -> None:
    found = {dotted(node) for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute | ast.Name)} & FORBIDDEN
    names = {f"{node.module}.{alias.name}" for node in ast.walk(tree(module)) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not (found | (names & FORBIDDEN)) - EXEMPT.get(module, set())
    pickles = [node.arg for node in ast.walk(tree(module)) if isinstance(node, ast.keyword) and node.arg == "allow_pickle"]
    assert pickles == (["allow_pickle"] if module == "fedsam.data.own_data" else [])  # where it is False


def test_every_room_exists() -> None:
    assert set(ROOMS) - {room(module) for module in MODULES if module not in FACES} == set()
