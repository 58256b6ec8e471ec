"""What is to be said of a component: its source and the meaning of each hyperparameter, declared where the component is defined.

`help`, `fedsam list` and the documentation read the same declarations.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar, cast, get_origin, get_type_hints

from pydantic import BaseModel, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import to_jsonable_python

from fedsam import wording
from fedsam.wording import shown

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
        lines = []
        for name, meaning in hyperparameters.items():
            if name in parameters:
                hint, default = parameters[name].annotation, parameters[name].default
                lines.append(_line(name, hint, MISSING if default is inspect.Parameter.empty else default, function.__module__, meaning))
            else:  # taken by `**settings`
                lines.append(f"    {name}: {meaning}")
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
            cls.__doc__ = cast(str, _Docstring(cls.__doc__))

    @classmethod
    def help_paragraphs(cls) -> list[str]:
        """What `help` adds to the docstring: the source, and the hyperparameters, inherited ones included."""
        module_of = {name: base.__module__ for base in reversed(cls.__mro__) for name in inspect.get_annotations(base)}
        meanings, items = descriptions(cls), tuple[Field[Any], ...](fields(cls) if is_dataclass(cls) else ())
        lines = [_line(item.name, item.type, _default(item), module_of[item.name], meanings.get(item.name, "")) for item in items]
        return _paragraphs(vars(cls).get("source", ""), lines)


class _Docstring:
    """A class's docstring, extended when it is read: the words for the types of all components take a quarter of a second."""

    def __init__(self, written: str) -> None:
        self._written = inspect.cleandoc(written)

    def __get__(self, instance: object, owner: type[Documented]) -> str:
        # `dataclass` looks whether there is a docstring while it makes the class.
        is_unfinished = "__dataclass_params__" in vars(owner) and "__match_args__" not in vars(owner)
        return self._written if is_unfinished else "\n\n".join([self._written, *owner.help_paragraphs()])


def descriptions(component: Any) -> dict[str, str]:
    """What each hyperparameter of a class, inherited ones included, or of a function means; without those that say nothing."""
    if not inspect.isclass(component):
        return dict(getattr(component, "descriptions", {}))
    items = [item for base in reversed(component.__mro__) for item in vars(base).get("__dataclass_fields__", {}).values()]
    return {item.name: item.metadata["description"] for item in items if "description" in item.metadata}


@lru_cache(maxsize=512)  # making a pydantic class takes a millisecond, and components share most of their types
def schema_of(hint: Any) -> Mapping[str, Any]:
    """The JSON schema of a setting of this type. Raises what pydantic does where it has none."""
    return schemas(create_model("Setting", value=(hint, ...)))["value"]


class _PlainSchema(GenerateJsonSchema):
    """As pydantic's, but a default that JSON has no form for is in words, and a type that it has none for may be anything."""

    def encode_default(self, dft: Any) -> Any:
        return to_jsonable_python(dft, fallback=shown)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}


def schemas(model: type[BaseModel]) -> Mapping[str, Mapping[str, Any]]:
    """The JSON schema of each setting of a model."""
    found: Mapping[str, Mapping[str, Any]] = model.model_json_schema(schema_generator=_PlainSchema).get("properties", {})
    return found


def is_class_variable(hint: object) -> bool:
    """Whether an annotation, evaluated or not, is that of a `ClassVar`."""
    return get_origin(hint) is ClassVar or hint is ClassVar or (isinstance(hint, str) and "ClassVar" in hint)


def _default(item: Field[Any]) -> object:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _line(name: str, hint: object, default: object, module: str, meaning: str) -> str:
    """A hyperparameter with what it may be, its default and its meaning."""
    facts = [_allowed(hint, module)]
    facts += [] if default is MISSING else [f"default {wording.value(to_jsonable_python(default, fallback=shown))}"]
    return f"    {name} ({'; '.join(facts)}): {meaning}".removesuffix(": ")


def _allowed(hint: object, module: str) -> str:
    """What a type allows, in words; as it is written where it cannot be resolved in its module yet, or pydantic cannot tell."""
    try:
        place = vars(sys.modules[module])
        resolved = get_type_hints(SimpleNamespace(__annotations__={"value": hint}), globalns=place, include_extras=True)["value"]
        return wording.allowed(schema_of(resolved), brief=False)
    except (NameError, TypeError, PydanticUserError):
        return hint if isinstance(hint, str) else inspect.formatannotation(hint)


def _paragraphs(source: str, hyperparameters: Sequence[str]) -> list[str]:
    found = [f"Source: {source}"] if source else []
    return [*found, "\n".join(["Hyperparameters:", *hyperparameters])] if hyperparameters else found
