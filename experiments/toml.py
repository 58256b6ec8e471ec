"""Settings as TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def toml(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Plain values as TOML, ready to be run again.

    >>> print(toml({"rounds": 3, "model": {"name": "cnn"}}))
    rounds = 3
    <BLANKLINE>
    [model]
    name = "cnn"
    """
    lines = [f"{key} = {_value(value)}" for key, value in settings.items() if value is not None and not isinstance(value, Mapping)]
    tables = [toml(value, f"{prefix}{key}.") for key, value in settings.items() if isinstance(value, Mapping)]
    head = [f"[{prefix[:-1]}]"] if prefix and lines else []
    return "\n\n".join(block for block in ["\n".join([*head, *lines]), *tables] if block)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    # JSON's strings, booleans and finite numbers are TOML's too.
    return json.dumps(value if isinstance(value, str | bool | int | float) else str(value), ensure_ascii=False)
