"""From a part's name and hyperparameters to the piece behind it.

A table is a dict of names to dataclasses or functions. What a part accepts is read from the signature behind its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from fedsam.config import ConfigError, Part, nearest, validated


def hyperparameters(entry: Callable[..., Any]) -> type[BaseModel]:
    """The settings that a table entry accepts: the fields of a dataclass, or the keyword-only parameters of a function."""
    hints = get_type_hints(entry, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(entry).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return create_model(entry.__name__, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


def resolve(table: Mapping[str, Callable[..., Any]], part: Part, where: str) -> dict[str, Any]:
    """The hyperparameters of `part`, validated, defaults filled in.

    Args:
        where: The key of the part in the experiment (`client.optimizer`), for messages.

    Raises:
        ConfigError: The name is not in the table, a hyperparameter is unknown, or its value is not allowed.
    """
    if part.name not in table:
        raise ConfigError(f"{where}: {part.name!r} is not known{nearest(part.name, list(table))}; allowed: {', '.join(sorted(table))}")
    model = validated(hyperparameters(table[part.name]), part.settings, where)
    return {name: getattr(model, name) for name in type(model).model_fields}


def build(table: Mapping[str, Callable[..., Any]], part: Part, where: str) -> Any:
    """The piece that `part` names: a dataclass instance, or the function with its keyword parameters bound. Raises as `resolve`."""
    settings = resolve(table, part, where)
    entry = table[part.name]
    return entry(**settings) if inspect.isclass(entry) else partial(entry, **settings)
