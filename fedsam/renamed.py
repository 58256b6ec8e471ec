"""The names that components had before, and the settings that there were not.

Former names are understood wherever a component is named, and replaced at once. Hashes of settings are made with them, and without new
settings that change nothing, so that runs in a database are found whenever they were made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# By kind, as in `Registry`: the former name and today's.
RENAMED: Mapping[str, Mapping[str, str]] = {
    "optimizers": {"gf": "fedgf", "gmt": "fedgmt", "smoo": "fedsmoo", "sol": "fedsol", "lesam": "fedlesam"},
    "corrections": {"smoo": "fedsmoo"},
}
# By table: settings that came later, and the value with which a run is what it was before.
ADDED: Mapping[str, Mapping[str, Any]] = {
    "client": {
        **{"last_batch": "keep", "rate_floor": 1.0, "rho_schedule": {"name": "constant"}, "statistics_batches": 0},
        "label_smoothing": 0.0,
    },
    "data": {"validation": 0.0},
    "measure": {"test": True},
}
_FORMER = {kind: {new: old for old, new in names.items()} for kind, names in RENAMED.items()}


def current_name(kind: str, name: str) -> str:
    """The name that a component has today.

    >>> current_name("optimizers", "gf"), current_name("strategies", "gf")
    ('fedgf', 'gf')
    """
    return RENAMED.get(kind, {}).get(name, name)


def with_current_names(settings: Any, key: str = "") -> Any:
    """A copy of plain settings, sweeps included, in which components have the names of today.

    Args:
        key: Where the settings stand in an experiment; default: they are all of one.

    >>> with_current_names({"client.optimizer": ["gf", {"name": "sam"}], "server": {"strategy": "fedgf"}})
    {'client.optimizer': ['fedgf', {'name': 'sam'}], 'server': {'strategy': 'fedgf'}}
    """
    return _with_names(settings, f".{key}", RENAMED)


def with_former_names(settings: Any) -> Any:
    """A copy of an experiment's plain settings in which components have the names that they had at first.

    >>> with_former_names({"client": {"correction": {"name": "lookback", "inner": {"name": "fedsmoo", "lam": 0.1}}}})
    {'client': {'correction': {'name': 'lookback', 'inner': {'name': 'smoo', 'lam': 0.1}}}}
    """
    return _with_names(settings, "", _FORMER)


def with_added(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plain settings of an experiment of any age with the settings that came later."""
    return {**settings, **{table: {**values, **settings.get(table, {})} for table, values in ADDED.items()}}


def without_added(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plain settings of an experiment without those that came later and change nothing.

    >>> without_added({"rounds": 2, "client": {"epochs": 1, "last_batch": "keep"}})
    {'rounds': 2, 'client': {'epochs': 1}}
    """
    tables = {
        table: {key: value for key, value in settings.get(table, {}).items() if key not in values or value != values[key]}
        for table, values in ADDED.items()
        if table in settings
    }
    return {**settings, **tables}


def _with_names(value: Any, key: str, names: Mapping[str, Mapping[str, str]]) -> Any:
    if isinstance(value, dict):  # no other mapping: it is no table of settings, and keeps its type for the message that says so
        return {name: _with_names(item, f"{key}.{name}", names) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_names(item, key, names) for item in value)
    found = re.search(r"\.client\.(optimizer|correction)(?:\.inner)*(?:\.name)?$", key) if isinstance(value, str) else None
    return names[f"{found[1]}s"].get(value, value) if found else value
