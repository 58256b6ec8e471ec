"""Settings as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def toml(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Plain values as TOML, ready to be run again.

    >>> print(toml({"rounds": 3, "model": {"name": "cnn"}, "sweep": {"zip": [{"seed": [0, 1]}]}}))
    rounds = 3
    <BLANKLINE>
    [model]
    name = "cnn"
    <BLANKLINE>
    [[sweep.zip]]
    seed = [0, 1]
    """
    blocks: list[str] = []
    lines: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            blocks.append(toml(value, f"{prefix}{key}."))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            blocks += [f"[[{prefix}{key}]]\n" + "\n".join(f"{_key(name)} = {_value(item[name])}" for name in item) for item in value]
        elif value is not None:
            lines.append(f"{_key(key)} = {_value(value)}")
    head = [f"[{prefix[:-1]}]"] if prefix and lines else []
    return "\n\n".join(block for block in ["\n".join([*head, *lines]), *blocks] if block)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else json.dumps(key, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items() if item is not None)} }}"
    # JSON's strings, booleans and finite numbers are TOML's too.
    return json.dumps(value if isinstance(value, str | bool | int | float) else str(value), ensure_ascii=False)
