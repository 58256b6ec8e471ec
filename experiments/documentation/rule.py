"""What a component computes: the lines of code that say it, which are those that run."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cached_property
from types import FunctionType
from typing import Any, NamedTuple

PACKAGES = ("clients", "strategies")  # of component classes
# What a component says about itself or refuses; the rest of its class is what it computes.
ABOUT = {"check", "reduction_reason", "uses_rounds", "help_paragraphs", "min_updates"}


class Rule(NamedTuple):
    """What a component computes.

    Attributes:
        legend: The symbols and their shapes, as its module says; may be empty.
        code: Its methods, and the functions of its package that they call, as they are written.
    """

    legend: str
    code: str


def rule(component: type) -> Rule:
    """The rule of a component class, with what it inherits from other components; the base of its kind aside."""
    methods = dict(_methods(component))
    found = list(methods)
    for function in found:  # grows while functions are found
        found += [called for called in _called(function) if called not in found]
    return Rule(_legend(component), "\n\n".join(_text(function, methods.get(function)) for function in found))


def _methods(component: type) -> Iterator[tuple[FunctionType, type | None]]:
    """The methods of a class in its order, without those of `ABOUT` and what `dataclass` adds; each with the class it is inherited from."""
    seen = set[str]()
    for owner in component.__mro__:
        if owner.__module__.endswith(".base") or owner.__module__.partition(".")[0] not in PACKAGES:
            continue
        for name, value in vars(owner).items():
            function: Any = value.fget if isinstance(value, property) else value.func if isinstance(value, cached_property) else value
            if isinstance(function, FunctionType) and name not in ABOUT | seen and not name.startswith("__"):
                seen.add(name)
                yield function, None if owner is component else owner


def _text(function: FunctionType, owner: type | None) -> str:
    """A function as it is written."""
    text = textwrap.dedent(inspect.getsource(function)).rstrip()
    return f"# inherited from {owner.__name__}\n{text}" if owner else text


def _called(function: FunctionType) -> Iterator[FunctionType]:
    """The functions of the same package that a function names."""
    source = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for name in dict.fromkeys(node.id for node in ast.walk(source) if isinstance(node, ast.Name)):
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType) and value.__module__.partition(".")[0] == function.__module__.partition(".")[0]:
            yield value


def _legend(component: type) -> str:
    """What the docstring of the component's module says after `Legend:`."""
    paragraphs = (inspect.getdoc(sys.modules[component.__module__]) or "").split("\n\n")
    found = next((paragraph for paragraph in paragraphs if paragraph.startswith("Legend:")), "")
    return " ".join(found.removeprefix("Legend:").split())
