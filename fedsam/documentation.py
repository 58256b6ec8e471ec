"""What is to be said of a component: its source and the meaning of each hyperparameter, declared where the component is defined.

`help`, `fedsam list` and the documentation read the same declarations.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, field
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar, get_origin, get_type_hints

from pydantic_core import to_jsonable_python

from fedsam import wording

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])


def hyperparameter(default: Value, description: str) -> Value:
    """A field of a dataclass with its default and its meaning. A subclass that changes the default inherits the meaning."""
    return field(default=default, metadata={"description": description})


def documented(source: str = "", **hyperparameters: str) -> Callable[[Function], Function]:
    """Declare where a function that is a component comes from and what its hyperparameters mean; its docstring is extended by both."""

    def declared(function: Function) -> Function:
        vars(function).update(source=source, descriptions=hyperparameters)
        parameters = inspect.signature(function).parameters
        lines = [_line(name, parameters.get(name), function.__module__, meaning) for name, meaning in hyperparameters.items()]
        function.__doc__ = "\n\n".join([inspect.getdoc(function) or "", *_paragraphs(source, lines)])
        return function

    return declared


class Documented:
    """The base of component classes; the docstring of a subclass is extended by its source and by all its hyperparameters.

    Attributes:
        source: Authors, year, arXiv number, and where the component departs from them.
    """

    source: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__doc__:
            cls.__doc__ = "\n\n".join([inspect.cleandoc(cls.__doc__), *_sections(cls)])


def descriptions(component: Any) -> dict[str, str]:
    """What each hyperparameter of a class, inherited ones included, or of a function means; without those that say nothing."""
    if not inspect.isclass(component):
        return dict(getattr(component, "descriptions", {}))
    found: dict[str, str] = {}
    for base in reversed(component.__mro__):
        # Before `dataclass` has seen a class, its fields are class attributes.
        declared = {**vars(base), **vars(base).get("__dataclass_fields__", {})}
        given = {name: item.metadata.get("description") for name, item in declared.items() if isinstance(item, Field)}
        found |= {name: text for name, text in given.items() if text}
    return found


def is_class_variable(hint: object) -> bool:
    """Whether an annotation, evaluated or not, is that of a `ClassVar`."""
    return get_origin(hint) is ClassVar or hint is ClassVar or (isinstance(hint, str) and "ClassVar" in hint)


def _sections(cls: type[Documented]) -> list[str]:
    said, found = descriptions(cls), dict[str, tuple[inspect.Parameter, str]]()
    for base in reversed(cls.__mro__):
        if base is not Documented and issubclass(base, Documented):
            hints = {name: hint for name, hint in inspect.get_annotations(base).items() if not is_class_variable(hint)}
            found |= {name: (_parameter(base, name, hint), base.__module__) for name, hint in hints.items()}
    lines = [_line(name, parameter, module, said.get(name, "")) for name, (parameter, module) in found.items()]
    return _paragraphs(vars(cls).get("source", ""), lines)


def _parameter(owner: type, name: str, hint: object) -> inspect.Parameter:
    """A field of a class as a parameter, whether or not `dataclass` has seen the class."""
    default = vars(owner).get("__dataclass_fields__", vars(owner)).get(name, MISSING)
    if isinstance(default, Field):
        made = default.default_factory
        default = default.default if made is MISSING else made()
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=inspect.Parameter.empty if default is MISSING else default, annotation=hint
    )


def _line(name: str, parameter: inspect.Parameter | None, module: str, meaning: str) -> str:
    """A hyperparameter with what it may be, its default and its meaning."""
    if parameter is None:  # taken by `**settings`
        return f"    {name}: {meaning}"
    facts = [] if parameter.annotation is parameter.empty else [_allowed(parameter.annotation, module)]
    facts += [] if parameter.default is parameter.empty else [f"default {wording.value(_plain(parameter.default))}"]
    return f"    {name} ({'; '.join(facts)}): {meaning}".removesuffix(": ")


def _allowed(hint: object, module: str) -> str:
    """What a type allows, in words; as it is written where it cannot be resolved in its module yet, or pydantic cannot tell."""
    try:
        place = vars(sys.modules[module])
        resolved = get_type_hints(SimpleNamespace(__annotations__={"value": hint}), globalns=place, include_extras=True)["value"]
        return wording.allowed(wording.schema_of(resolved), brief=False)
    except Exception:  # a hint may be any expression
        return hint if isinstance(hint, str) else inspect.formatannotation(hint)


def _plain(default: object) -> object:
    return to_jsonable_python(default, fallback=str)


def _paragraphs(source: str, hyperparameters: Sequence[str]) -> list[str]:
    found = [f"Source: {source}"] if source else []
    return [*found, "\n".join(["Hyperparameters:", *hyperparameters])] if hyperparameters else found
