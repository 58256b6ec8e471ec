"""Settings as plain values: read from TOML, and changed by dotted overrides (`client.optimizer.rho=0.1`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsam.wording import ConfigError, shown

DEEPEST = 30  # tables and lists in one another
TOO_DEEP = f"tables and lists nested more than {DEEPEST} deep are not allowed"


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The TOML table in `path` with `KEY=VALUE` overrides applied, not yet validated.

    Raises:
        ConfigError: The file is missing or no TOML, or an override is not of the form `key=value`.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: {TOO_DEEP}") from None
    return override(settings, dict(assigned(text) for text in overrides))


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `settings` with each dotted key of `changes` set.

    `client.optimizer = "sam"` grows into a table when a key below it is set.

    Raises:
        ConfigError: Tables or lists are nested too deep, or a key is below a value that is no table.
    """
    for key, value in {"settings": settings, **changes}.items():
        _check_depth(value, key)
    result: dict[str, Any] = {key: _copied(value) for key, value in settings.items()}
    for key, value in changes.items():
        *parents, last = key.split(".")
        table = result
        for parent in parents:
            child = table.get(parent, {})
            table[parent] = {"name": child} if isinstance(child, str) else child
            if not isinstance(table[parent], dict):
                raise ConfigError(f"{key}: {parent!r} is a value, not a table")
            table = table[parent]
        # A component given again by name alone keeps no hyperparameters of the former one.
        table[last] = value
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key: what `override` makes the tables of again.

    >>> flatten({"rounds": 3, "client": {"optimizer": {"name": "sam", "rho": 0.1}, "schedule.name": "cosine"}})
    {'rounds': 3, 'client.optimizer.name': 'sam', 'client.optimizer.rho': 0.1, 'client.schedule.name': 'cosine'}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def assigned(text: str) -> tuple[str, Any]:
    """Key and value of `KEY=VALUE`, the value as in TOML, or else a text. Raises `ConfigError` where there is no key."""
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise ConfigError(f"{text!r}: an override is KEY=VALUE, for example client.optimizer.rho=0.1")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
    except ValueError as error:
        raise ConfigError(f"{key.strip()}: {shown(value)} is not allowed: {error}") from None
    except RecursionError:
        raise ConfigError(f"{key.strip()}: {TOO_DEEP}") from None


def _check_depth(value: object, key: str) -> None:
    """Raise `ConfigError` where tables and lists at a dotted key, or the key itself, are nested deeper than settings ever are."""
    depth, level = key.count("."), [value]
    while level:
        if depth > DEEPEST:
            raise ConfigError(f"{key[:80]}: {TOO_DEEP}")
        inner = [one.values() if isinstance(one, Mapping) else one for one in level if isinstance(one, Mapping | list | tuple)]
        depth, level = depth + 1, [item for items in inner for item in items]
