"""Sweeps: one file that says what to compare becomes a list of experiments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import reduce
from typing import Any

from experiments.methods import expand as expand_method
from fedsam.config import ConfigError, Experiment, hyperparameters, override


def expand(settings: Mapping[str, Any]) -> list[Experiment]:
    """Every combination of the values in `[sweep]`, each for every seed; without a sweep the one experiment.

    A key of `[sweep]` is a dotted key of the experiment (`"client.optimizer.name"`), its value the list to try; `seeds` is short for
    `seed`. The first key varies slowest, seeds vary fastest. Where the names of a part are swept, a hyperparameter beside the name
    goes to those that have it (`rho` to `sam` and not to `sgd`); points that are the same experiment are run once.

    Raises:
        ConfigError: A value is not a list, a key is not a setting, or an experiment is not valid.
    """
    sweep = dict(settings.get("sweep", {}))
    base = {key: value for key, value in settings.items() if key != "sweep"}
    seeds = sweep.pop("seeds", None)
    axes = {key: _values(f"sweep.{key}", values) for key, values in _flatten(sweep).items()}
    if seeds is not None:
        axes["seed"] = _values("sweep.seeds", seeds)
    points = [override(base, dict(zip(axes, point, strict=True))) for point in itertools.product(*axes.values())]
    experiments = [expand_method(_fitted(settings, axes)) for settings in points]
    return list({experiment.dumps(): experiment for experiment in experiments}.values())


def _fitted(settings: dict[str, Any], axes: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Without the hyperparameters that only others of the swept names of a part have."""
    names = {key.removesuffix(".name"): values for key, values in axes.items() if key.endswith(".name")}
    if not names:
        return settings
    from experiments.catalogue import PARTS  # imports torch, which a file without such a sweep does not need here

    for key, values in names.items():
        table = reduce(lambda inner, step: inner.get(step, {}), key.split("."), settings)
        known = {name: set(hyperparameters(PARTS[key][name]).model_fields) for name in values if name in PARTS.get(key, {})}
        others = set().union(*known.values()) - known.get(table["name"], set())
        for setting in others & set(table):
            del table[setting]
    return settings


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys: TOML reads `data.clients = [..]` under `[sweep]` as nested tables, `"data.clients"` as one key."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _values(key: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{key}: {values!r} is not allowed: must be a list of values to try")
    return values
