"""Hyperparameters in words: what a type allows, and values, for `help` and `fedsam list`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import create_model

SIGNS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
WORDS = {"integer": "whole number", "number": "number", "boolean": "true | false", "string": "text", "null": "unset", "array": "list"}


def allowed(schema: Mapping[str, Any], *, brief: bool = True) -> str:
    """What a JSON schema allows, in words.

    Args:
        brief: Limits alone say that something is a number.

    >>> allowed({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
    '> 0, <= 1'
    >>> allowed({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, brief=False)
    'number > 0, <= 1'
    >>> allowed({"anyOf": [{"enum": ["crop", "flip"]}, {"type": "null"}]})
    'crop | flip | unset'
    """
    if "anyOf" in schema:
        return " | ".join(allowed(option, brief=brief) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(value(each) for each in schema["enum"])
    if "const" in schema:
        return value(schema["const"])
    limits = ", ".join(f"{sign} {value(schema[key])}" for key, sign in SIGNS.items() if key in schema)
    if "$ref" in schema:
        return "part"
    word = WORDS.get(schema.get("type", ""), "any")
    return f"{word} {limits}" if limits and (word == "whole number" or not brief) else limits or word


def value(value: object) -> str:
    """A setting's value as a person reads it.

    >>> value(True), value(None), value(1e-12), value({"name": "fedavg"})
    ('true', 'unset', '1e-12', 'fedavg')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):  # a component: its name says enough when it has no settings
        return str(value["name"]) if set(value) == {"name"} else str(dict(value))
    return "unset" if value is None else str(value)


@lru_cache(maxsize=512)  # making a pydantic class takes a millisecond, and components share most of their types
def schema_of(hint: Any) -> Mapping[str, Any]:
    """The JSON schema of a setting of this type. Raises what pydantic does where it has none."""
    found: Mapping[str, Any] = create_model("Setting", value=(hint, ...)).model_json_schema()["properties"]["value"]
    return found
