"""Tuning in a file: the table `[tune]`, which settings `fedsam compare` tries before the final runs, and for which of them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

from pydantic import Field

from experiments.settings.presets import expand
from experiments.settings.resolved import resolve
from experiments.settings.selector import Selector, is_fixed
from experiments.settings.sweep import expand as expand_sweep
from experiments.settings.sweep import has_setting
from fedsam.component import Count, CountOrZero, Frozen, validated
from fedsam.config import ConfigError, Experiment
from fedsam.overrides import flatten, override
from fedsam.results.config_hash import config_hash, digest
from fedsam.wording import shown

TUNABLE = ("client", "server", "model")  # tables of an experiment: whatever else decides what is compared, or on what
# A trial is measured by its validation examples alone, and as cheaply as that allows.
OF_TRIALS: Mapping[str, Any] = {
    "name": "",
    "measure.test": False,
    "measure.union": False,
    "measure.clients": False,
    "measure.flatness": {},
    "checkpoint.every": 0,
}


class Range(Frozen):
    """The values from `low` to `high` of a setting: whole numbers where both ends are."""

    low: int | float = Field(description="Least value that is tried.")
    high: int | float = Field(description="Greatest value that is tried.")
    log: bool = Field(False, description="Whether values are spread evenly over their logarithms.")


Space = Mapping[str, Range | tuple[Any, ...]]  # by dotted key


class SpaceOverride(Frozen):
    """Other ranges for the experiments that `when` fits."""

    when: dict[str, Any] = Field(description="Settings that an experiment must have, as in [[sweep.overrides]].")
    space: dict[str, Any] = Field(description="Ranges that win over those of [tune.space] there.")


class Tuning(Frozen):
    """The table `[tune]`: every line of a comparison gets the same number of trials, judged by examples that no client trains on."""

    trials: Count = Field(20, description="Trials of each method and number of clients.")
    sampler: Literal["tpe", "random", "grid"] = Field(
        "tpe",
        description="tpe (tree-structured Parzen estimator), random, or grid: evenly spread values, at most as many points as trials.",
    )
    metric: Literal["validation_accuracy", "validation_loss"] = Field(
        "validation_accuracy", description="What decides: the mean of the last measure.last evaluations of a trial."
    )
    rounds: Count | None = Field(None, description="Rounds of a trial; default: those of the final run.")
    budget: Count | None = Field(None, description="Gradient evaluations of a trial; default: those of the final run.")
    seed: CountOrZero = Field(0, description="Seed of the sampler.")
    seeds: tuple[CountOrZero, ...] = Field((1000,), min_length=1, description="Seeds of the runs of a trial, whose mean counts.")
    pruning: bool = Field(True, description="Stop a trial that is worse than the median of those before it, by its first seed.")
    at: dict[str, Any] = Field({}, description="Settings of trials in place of the final runs', such as one number of clients for all.")
    space: dict[str, Any] = Field(description="What is tried: by dotted key a range { low, high, log } or a list of values.")
    overrides: tuple[SpaceOverride, ...] = Field((), description="Other ranges for some experiments.")


@dataclass(frozen=True)
class StudyPlan:
    """What is tuned together: the experiments of a comparison that differ in their seed alone, or share their trials by `tune.at`.

    Attributes:
        id: Equal for studies that come to the same choice.
        tuning: The table.
        base: The experiment of a trial, before a choice and a seed.
        space: What is tried of it, by dotted key.
        members: The final experiments that it is for, as their places in the comparison.
    """

    id: str
    tuning: Tuning
    base: Experiment
    space: Space
    members: tuple[int, ...]

    def trial(self, parameters: Mapping[str, Any], seed: int) -> Experiment:
        """The experiment of a trial with these settings and a seed. Raises `ConfigError` where it is not valid."""
        return with_settings(self.base, {**parameters, "seed": seed})

    @property
    def settings(self) -> dict[str, Any]:
        """The table as plain values, with the ranges of this study."""
        plain = self.tuning.model_dump(mode="json", exclude={"space", "overrides"}, exclude_none=True)
        return plain | {"space": {key: _plain(allowed) for key, allowed in self.space.items()}}


def expand_tuned(
    settings: Mapping[str, Any], fixed: Collection[str] = (), warn: Callable[[str], None] = warnings.warn
) -> tuple[list[Experiment], list[StudyPlan]]:
    """The experiments of settings with a `[sweep]`, and the studies of their table `[tune]`; none where there is no such table.

    Arguments are those of `experiments.settings.sweep.expand`. A key that the command line sets is tuned no more.

    Raises:
        ConfigError: As `expand`; or the table is not valid, `data.validation` is not set, or the space has a key that is swept, that no
            experiment takes, or of which one does not take a value.
    """
    if "tune" not in settings:
        return expand_sweep(settings, fixed, warn), []
    rest, table = {key: value for key, value in settings.items() if key != "tune"}, settings["tune"]
    if not isinstance(table, Mapping):
        raise ConfigError(f"tune: {shown(table)} is not allowed: must be a table")
    tuning = validated(Tuning, table, "tune")
    experiments = expand_sweep(rest, {key for key in fixed if not is_fixed(key, ["tune"])}, warn)
    return experiments, _studies(tuning, experiments, rest.get("sweep", {}), fixed)


def with_settings(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with each dotted key of `changes` set. Raises `ConfigError` where it is not valid."""
    return expand(override(experiment.dump(), changes))


def _space(where: str, table: Mapping[str, Any], prefix: str = "") -> dict[str, Range | tuple[Any, ...]]:
    """Ranges and lists of values by dotted key; TOML also gives dotted keys as nested tables."""
    found: dict[str, Range | tuple[Any, ...]] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and not {"low", "high"} & set(value):
            found |= _space(where, value, f"{key}.")
        elif isinstance(value, list) and value:
            found[key] = tuple(value)
        elif isinstance(value, Mapping):
            found[key] = _range(f"{where}.{key}", value)
        else:
            raise ConfigError(f"{where}.{key}: {shown(value)} is not allowed: must be a table with low and high, or a list of values")
    return found


def _range(where: str, table: Mapping[str, Any]) -> Range:
    given = validated(Range, table, where)
    if not -math.inf < given.low < given.high < math.inf:
        raise ConfigError(f"{where}: {shown(dict(table))} is not allowed: low must be below high")
    if given.log and given.low <= 0:
        raise ConfigError(f"{where}.low: {given.low} is not allowed: must be above 0 where log is true")
    return given


def _studies(tuning: Tuning, experiments: Sequence[Experiment], sweep: Mapping[str, Any], fixed: Collection[str]) -> list[StudyPlan]:
    usual = _space("tune.space", tuning.space)
    if not usual:
        raise ConfigError(
            'tune.space: {} is not allowed: must say what is tried, as { "client.optimizer.lr" = { low = 0.01, high = 0.3 } }'
        )
    overrides = []
    for number, one in enumerate(tuning.overrides, 1):
        where = f"tune.overrides[{number}]"
        overrides.append((Selector.of(where, one.when, fixed), _space(f"{where}.space", one.space)))
    for selector, _ in overrides:
        if not selector.may_miss and not any(map(selector.fits, experiments)):
            raise selector.missed()
    for key in dict.fromkeys(key for space in (usual, *(space for _, space in overrides)) for key in space):
        _check_key(key, _swept(sweep), experiments)
    found: dict[str, StudyPlan] = {}
    for place, experiment in enumerate(experiments):
        allowed = reduce(lambda space, one: space | (one[1] if one[0].fits(experiment) else {}), overrides, usual)
        own = {key: values for key, values in allowed.items() if not is_fixed(key, fixed) and has_setting(experiment, key)}
        if own:
            study = _study(tuning, experiment, own)
            members = (*found[study.id].members, place) if study.id in found else (place,)
            found[study.id] = replace(study, members=members)
    for study in found.values():
        _check_ends(study)
    return list(found.values())


def _study(tuning: Tuning, experiment: Experiment, space: Space) -> StudyPlan:
    """The study of one experiment, without members."""
    length = {key: value for key, value in (("rounds", tuning.rounds), ("budget", tuning.budget)) if value is not None}
    base = with_settings(experiment.model_copy(update={"published": None, "seed": 0}), {**OF_TRIALS, **length, **flatten(tuning.at)})
    study = StudyPlan("", tuning, base, space, ())
    same = config_hash(override(base.dump(), dict.fromkeys(space, 0)))  # whatever the file gives what is tuned
    return replace(study, id=digest(json.dumps([same, study.settings], default=str, sort_keys=True))[:12])


def _check_ends(study: StudyPlan) -> None:
    """Raise `ConfigError` where the trials of a study would look at the test set, or where one of them would not be valid."""
    if not study.base.data.validation:
        refused = "data.validation: 0 is not allowed with [tune]: trials are compared by examples that are held out, never by the test set"
        raise ConfigError(f"{refused}; 0.1 holds out a tenth")
    for key, allowed in study.space.items():
        for value in (allowed.low, allowed.high) if isinstance(allowed, Range) else allowed:
            experiment = with_settings(study.base, {key: value})
            if resolve(experiment) is None:  # the components tell
                from experiments.settings.catalogue import check

                check(experiment)


def _check_key(key: str, swept: Collection[str], experiments: Sequence[Experiment]) -> None:
    first, *_, last = key.split(".")
    if first not in TUNABLE or last == "name" or "." not in key:
        tables = ", ".join(f"{name}.*" for name in TUNABLE)
        raise ConfigError(f"tune.space.{key}: is not allowed: what is tuned is a setting in {tables} that is no name; sweep others")
    if key in swept:
        raise ConfigError(f"tune.space.{key}: is swept as well; a key may stand in [sweep] or in [tune.space]")
    if not any(has_setting(experiment, key) for experiment in experiments):
        raise ConfigError(f"tune.space.{key}: is a setting of none of the {len(experiments)} experiments of this file")


def _swept(sweep: Mapping[str, Any]) -> set[str]:
    """The dotted keys of a sweep, those that vary together included."""
    grid = {key: value for key, value in sweep.items() if key not in ("zip", "overrides")}
    return {key for table in (grid, *sweep.get("zip", ())) for key in flatten(table)}


def _plain(allowed: Range | tuple[Any, ...]) -> Any:
    return allowed.model_dump(mode="json") if isinstance(allowed, Range) else list(allowed)
