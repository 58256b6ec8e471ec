"""Sweeps: one file that says what to compare becomes a list of experiments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from experiments.methods import expand as expand_method
from fedsam.config import ConfigError, Experiment, override


def expand(settings: Mapping[str, Any]) -> list[Experiment]:
    """Every combination of the values in `[sweep]`, each for every seed; without a sweep the one experiment.

    A key of `[sweep]` is a dotted key of the experiment (`"client.optimizer.name"`), its value the list to try; `seeds` is short for
    `seed`. The first key varies slowest, seeds vary fastest.

    Raises:
        ConfigError: A value is not a list, a key is not a setting, or an experiment is not valid.
    """
    sweep = dict(settings.get("sweep", {}))
    base = {key: value for key, value in settings.items() if key != "sweep"}
    seeds = sweep.pop("seeds", None)
    axes = {key: _values(f"sweep.{key}", values) for key, values in _flatten(sweep).items()}
    if seeds is not None:
        axes["seed"] = _values("sweep.seeds", seeds)
    return [expand_method(override(base, dict(zip(axes, point, strict=True)))) for point in itertools.product(*axes.values())]


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
