"""Sweeps: one file that says what to compare becomes a list of experiments."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeGuard

from experiments.settings import published_results
from experiments.settings.presets import expand as expand_preset
from experiments.settings.presets import unknown_names
from experiments.settings.resolved import accepted
from experiments.settings.selector import Selector, check_key, is_fixed
from fedsam.component import Component, Frozen
from fedsam.config import ConfigError, Experiment
from fedsam.overrides import flatten, override
from fedsam.renamed import with_current_names
from fedsam.wording import shown

SPECIAL = ("seeds", "zip", "overrides", "max_runs")
MAX_RUNS = 1000  # unless `max_runs` says otherwise
Point = dict[str, Any]


@dataclass(frozen=True)
class Override:
    """What the points of a sweep that a selector fits are changed by: dotted keys and their values."""

    selector: Selector
    set: Point


@unknown_names()
def expand(settings: Mapping[str, Any], fixed: Collection[str] = (), warn: Callable[[str], None] = warnings.warn) -> list[Experiment]:
    """Every combination of the values in `[sweep]`, each for every seed; without a sweep the one experiment.

    A key of `[sweep]` is a dotted key of the experiment (`"client.optimizer.name"`), its value the list to try; `seeds` is short for
    `seed`. The keys of one `[[sweep.zip]]` vary together. The first key varies slowest, groups vary faster, seeds fastest. Where the
    names of a component are swept, a hyperparameter beside the name goes to those that have it (`rho` to `sam` and not to `sgd`);
    points that are the same experiment are run once. `[[sweep.overrides]]` then changes the points that its `when` fits by what its `set`
    says, which wins over presets. More than `max_runs` points, by default `MAX_RUNS`, are an error. `[[published]]` beside the sweep says
    what was published of the points that its `when` fits.

    Args:
        fixed: Dotted keys that the command line sets: they are swept and overridden no more.
        warn: Told of what is no error but can hardly be meant.

    Raises:
        ConfigError: A value is not a list, lists of a group differ in length, a key is swept twice or is not a setting, there are too many
            points, a `when` fits none, or an experiment is not valid.
    """
    settings = with_current_names(dict(settings))
    if "tune" in settings:
        raise ConfigError("tune: is not allowed here: `fedsam compare`, in Python `fedsam.compare`, tunes and then makes the final runs")
    sweep = settings.get("sweep", {})
    if not isinstance(sweep, dict):
        raise ConfigError(f"sweep: {shown(sweep)} is not allowed: must be a table of lists")
    base, published = published_results.split({key: value for key, value in settings.items() if key != "sweep"}, fixed)
    groups, overrides = _groups(sweep, fixed, warn), _overrides(sweep, fixed)
    _check_size(sweep, groups)
    axes = {key: [point[key] for point in group] for group in groups for key in group[0]}
    # Tables before what is inside them, whatever their order in the file.
    points = [dict(sorted(_merged(point).items(), key=lambda item: item[0].count("."))) for point in itertools.product(*groups)]
    swept = [_applicable(override(base, point), axes) for point in points]
    command_line = {key: value for key in fixed if (value := _value(base, key)) is not None}
    changes = _changes(swept, overrides)
    experiments = [expand_preset(override(point, change | command_line)) for point, change in zip(swept, changes, strict=True)]
    return published_results.attached(list({experiment.dumps(): experiment for experiment in experiments}.values()), published, fixed)


def as_sweep(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One table of settings from which `expand` makes these runs, given as plain values with all defaults.

    Raises:
        ConfigError: Some of the runs have a setting that others leave unset, and it is in no table of its own.
    """
    known = [run.get("published") for run in runs]
    if any(known):  # an empty table stands for none, where only some have it
        runs = [{**run, "published": published or {}} for run, published in zip(runs, known, strict=True)]
    same, varying = _same_and_varying(runs)
    return same | ({"sweep": {"zip": [varying]}} if varying else {})


def _same_and_varying(tables: Sequence[Mapping[str, Any]], prefix: str = "") -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What the tables agree in, and the values of the dotted keys that they differ in."""
    same, varying = dict[str, Any](), dict[str, list[Any]]()
    for key in {key: None for table in tables for key in table}:
        values = [table.get(key) for table in tables]
        if all(value == values[0] for value in values):
            same[key] = values[0]
        elif _same_keys(values):
            inner, lists = _same_and_varying(values, f"{prefix}{key}.")
            same, varying = same | ({key: inner} if inner else {}), varying | lists
        elif None in values:
            raise ConfigError(f"{prefix}{key}: only some of the {len(tables)} runs set it, which one file cannot say; fix it with -o")
        else:
            varying[prefix + key] = values
    return same, varying


def _same_keys(values: Sequence[Any]) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Whether these are tables with the same keys; hyperparameters of different components stay together."""
    keys = [(set(value), value.get("name")) for value in values if isinstance(value, Mapping)]
    return len(keys) == len(values) and all(key == keys[0] for key in keys)


def _check_size(sweep: Mapping[str, Any], groups: Sequence[Sequence[Point]]) -> None:
    """Count the points before there are any. Raises `ConfigError` for too many."""
    limit, lengths = sweep.get("max_runs", MAX_RUNS), [len(group) for group in groups]
    if not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"sweep.max_runs: {shown(limit)} is not allowed: must be a whole number of runs")
    if math.prod(lengths) > limit:
        product = f"{' x '.join(map(str, lengths))} = {math.prod(lengths)}"
        raise ConfigError(f"sweep: {product} runs are not allowed: at most {limit}, or as many as sweep.max_runs says")


def _groups(sweep: Mapping[str, Any], fixed: Collection[str], warn: Callable[[str], None]) -> list[list[Point]]:
    """What is multiplied: for each key of the grid, each zipped group and the seeds, the settings to try."""
    grid = {key: value for key, value in sweep.items() if key not in SPECIAL}
    zipped = sweep.get("zip", [])
    if not isinstance(zipped, list) or not all(isinstance(group, dict) and group for group in zipped):
        raise ConfigError(f"sweep.zip: {shown(zipped)} is not allowed: must be tables [[sweep.zip]] of lists")
    # TOML reads `data.clients = [..]` under `[sweep]` as nested tables, `"data.clients"` as one key.
    tables = [("sweep", {key: values}) for key, values in flatten(grid).items()]
    tables += [(f"sweep.zip[{number}]", flatten(group)) for number, group in enumerate(zipped, 1)]
    tables += [("sweep", {"seeds": sweep["seeds"]})] if "seeds" in sweep else []
    groups, seen = [], set[str]()
    for where, table in tables:
        lists = {"seed" if key == "seeds" else key: _as_list(f"{where}.{key}", values) for key, values in table.items()}
        for key in lists:
            check_key(key, where, SPECIAL if where == "sweep" else ())
            if key in seen:
                raise ConfigError(f"{where}.{key}: is swept twice; a key may stand in one place of [sweep]")
            seen.add(key)
        lengths = {key: len(values) for key, values in lists.items()}
        if len(set(lengths.values())) > 1:
            raise ConfigError(f"{where}: lists of {lengths} values are not allowed: what varies together must be equally long")
        if repeated := _repeated(lists):
            warn(f"{where}: {repeated} stands there more than once, and is run once")
        free = {key: values for key, values in lists.items() if not is_fixed(key, fixed)}
        groups += [[dict(zip(free, point, strict=True)) for point in zip(*free.values(), strict=True)]] if free else []
    return groups


def _repeated(lists: Mapping[str, Sequence[Any]]) -> str:
    """The first point of a group that stands there again; empty where all differ."""
    points = zip(*lists.values(), strict=True)
    texts = Counter(", ".join(f"{key} = {shown(value)}" for key, value in zip(lists, point, strict=True)) for point in points)
    return next((text for text, times in texts.items() if times > 1), "")


def _overrides(sweep: Mapping[str, Any], fixed: Collection[str]) -> list[Override]:
    given, found = sweep.get("overrides", []), []
    if not isinstance(given, list):
        raise ConfigError(f"sweep.overrides: {shown(given)} is not allowed: must be tables [[sweep.overrides]] with `when` and `set`")
    for number, table in enumerate(given, 1):
        where = f"sweep.overrides[{number}]"
        filled = isinstance(table, dict) and all(isinstance(value, dict) and value for value in table.values())
        if not filled or set(table) != {"when", "set"}:
            raise ConfigError(f"{where}: {shown(table)} is not allowed: must be two tables of settings, `when` and `set`")
        found.append(Override(Selector.of(where, table["when"], fixed), flatten(table["set"])))
    return found


def _changes(points: Sequence[Mapping[str, Any]], overrides: Sequence[Override]) -> list[Point]:
    """For each point what the overrides set whose `when` fits it as it was swept; of two, the later one wins."""
    plain = [expand_preset(point) for point in points] if overrides else []
    for change in overrides:
        if not change.selector.may_miss and not any(map(change.selector.fits, plain)):
            raise change.selector.missed()
    return [_merged([change.set for change in overrides if change.selector.fits(experiment)]) for experiment in plain] or [{}] * len(points)


def _applicable(settings: dict[str, Any], axes: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Without the hyperparameters that only others of the swept names of a component have."""
    names = {key.removesuffix(".name"): values for key, values in axes.items() if key.endswith(".name")}
    if not names:
        return settings
    for key, values in names.items():
        if not all(isinstance(name, str) for name in values):
            raise ConfigError(f"{key}.name: {shown(values)} is not allowed in a sweep: must be a list of names")
        table = reduce(lambda inner, step: inner.get(step, {}), key.split("."), settings)
        known = {name: _accepted(key, name) for name in values}
        others = set().union(*known.values()) - known.get(table["name"], set())
        for setting in others & set(table):
            del table[setting]
    return settings


def _accepted(key: str, name: str) -> set[str]:
    """The hyperparameters of the component that a dotted key names. Raises `ConfigError` where there is none."""
    if (ours := accepted(key, name)) is not None:
        return ours
    from experiments.settings.catalogue import REGISTRIES  # imports torch, which our components do not need here

    return REGISTRIES[key].accepts(name, key) if key in REGISTRIES else set()


def has_setting(experiment: Experiment, key: str) -> bool:
    """Whether a dotted key is a setting of an experiment: below a component, of one with its name.

    Raises:
        ConfigError: There is no component of that name.
    """
    steps = key.split(".")
    value: Any = experiment
    for depth, step in enumerate(steps):
        if isinstance(value, Component):
            return step in _accepted(".".join(steps[:depth]), value.name)
        if not isinstance(value, Frozen) or step not in type(value).model_fields:
            return False
        value = getattr(value, step)
    return True


def _value(settings: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    return reduce(lambda table, step: table.get(step) if isinstance(table, dict) else None, key.split("."), settings)


def _merged(points: Sequence[Point]) -> Point:
    return {key: value for point in points for key, value in point.items()}


def _as_list(key: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{key}: {shown(values)} is not allowed: must be a list of values to try")
    return values
