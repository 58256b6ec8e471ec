"""What is to be said of a component: its source and the meaning of each hyperparameter, declared where the component is defined.

`help`, `fedsam list` and the documentation read the same declarations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import Field, field, fields, is_dataclass
from typing import Any, ClassVar, TypeVar, get_origin

Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])


def hyperparameter(default: Value, description: str) -> Value:
    """A field of a dataclass with its default and its meaning. A subclass that changes the default inherits the meaning."""
    return field(default=default, metadata={"description": description})


def documented(source: str = "", **hyperparameters: str) -> Callable[[Function], Function]:
    """Declare where a function that is a component comes from and what its hyperparameters mean; its docstring is extended by both."""

    def declared(function: Function) -> Function:
        vars(function).update(source=source, descriptions=hyperparameters)
        lines = [f"    {name}: {meaning}" for name, meaning in hyperparameters.items()]
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
    inherited: dict[str, Any] = {item.name: item.type for item in fields(cls)} if is_dataclass(cls) else {}
    own = {name: hint for name, hint in inspect.get_annotations(cls).items() if not is_class_variable(hint)}
    said = descriptions(cls)
    lines = [f"    {name} ({_written(hint)}): {said.get(name, '')}".rstrip(": ") for name, hint in (inherited | own).items()]
    return _paragraphs(vars(cls).get("source", ""), lines)


def _paragraphs(source: str, hyperparameters: Sequence[str]) -> list[str]:
    found = [f"Source: {source}"] if source else []
    return [*found, "\n".join(["Hyperparameters:", *hyperparameters])] if hyperparameters else found


def _written(hint: object) -> str:
    return hint if isinstance(hint, str) else inspect.formatannotation(hint)
