"""Settings in words: what a type allows, values, and what is wrong with them; for messages, `help` and `fedsam list`.

It imports no pydantic, so that commands that need none answer at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

SIGNS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
TOO_LARGE = 2**63  # from here on a whole number does not fit into 64 bits; it goes without saying
LONGEST = 200  # characters of a value in a message
WORDS = {
    **{"integer": "whole number", "number": "number", "boolean": "true | false"},
    **{"string": "text", "null": "unset", "array": "list", "object": "table"},
}


class ConfigError(ValueError):
    """A setting is unknown or out of range; the message names the key, the value and what is allowed."""


class UnknownNameError(ConfigError):
    """No component of a kind has the name.

    Attributes:
        name: The name.
    """

    def __init__(self, where: str, name: str, known: Collection[str], hint: str = "") -> None:
        self.name = name
        self._rest = where, known
        allowed = f"allowed: {', '.join(sorted(known))}, module:attribute"
        super().__init__(f"{where}: {name!r} is not known{hint or nearest(name, list(known))}; {allowed}")

    def with_hint(self, hint: str) -> UnknownNameError:
        """The same error, with what the name is instead of the nearest of those that are known."""
        where, known = self._rest
        return UnknownNameError(where, self.name, known, f": {hint}")


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
    >>> allowed({"type": "array", "items": {"enum": ["crop", "flip"]}})
    'list of (crop | flip)'
    """
    if "anyOf" in schema:
        return " | ".join(allowed(option, brief=brief) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(value(each) for each in schema["enum"])
    if "const" in schema:
        return value(schema["const"])
    limits = ", ".join(f"{sign} {value(schema[key])}" for key, sign in SIGNS.items() if schema.get(key, TOO_LARGE) != TOO_LARGE)
    if "$ref" in schema:
        return "component"
    if schema.get("type") == "array" and schema.get("items"):
        return f"list of ({allowed(schema['items'], brief=False)})"
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


def is_number(value: object) -> bool:
    """Whether a value of a setting is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_plain(value: object) -> bool:
    """Whether a value has a form in TOML; nothing else can be given in a file, kept with a run or shown."""
    if type(value) in (list, tuple):  # not every mapping or sequence: `os.environ` is one, too
        return all(is_plain(item) for item in value)  # type: ignore[attr-defined]
    if type(value) is dict:
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    return isinstance(value, str | bool | int | float | Path)


def shown(value: object) -> str:
    """A value in a message: as it is written where it is plain, cut where it is long; of anything else its type alone.

    >>> shown(-1), shown(object()), shown(10**5000)
    ('-1', 'a value of type object', 'a number of more than 4300 digits')
    """
    if value is not None and not is_plain(value):
        return f"a value of type {type(value).__name__}"
    try:
        text = repr(value)
    except ValueError:
        return f"a number of more than {sys.get_int_max_str_digits()} digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def nearest(name: str, names: Sequence[str]) -> str:
    """A question for the end of a message: the one of `names` that is most like `name`; empty where none is.

    >>> nearest("sma", ["sam", "sgd"])
    ", did you mean 'sam'?"
    """
    close = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def explained(model: type[BaseModel], error: Any, where: str = "") -> str:
    """One of pydantic's errors in the settings of a `model`, whose keys start at `where`."""
    path = [str(step) for step in error["loc"] if not (isinstance(step, str) and ("constrained" in step or step in ("int", "float")))]
    key = ".".join([*filter(None, [where]), *path])
    if error["type"] == "extra_forbidden":
        table = model
        for step in path[:-1]:
            table = table.model_fields[step].annotation  # type: ignore[assignment]
        names = list(table.model_fields)
        return f"{key}: unknown key{nearest(path[-1], names)}; allowed here: {', '.join(sorted(names)) or 'none'}"
    if error["type"] == "missing":
        return f"{key}: must be given"
    return f"{key}: {shown(error['input'])} is not allowed: {error['msg'][0].lower()}{error['msg'][1:]}"
