"""Selectors `when = { ... }` in a file: which experiments of a sweep a table is about."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fedsam.config import ConfigError, Experiment
from fedsam.overrides import flatten
from fedsam.wording import nearest


@dataclass(frozen=True)
class Selector:
    """Settings that an experiment must have, all of them.

    Attributes:
        where: The key of its table in the file, for messages.
        settings: Their values by dotted key; of a component, its name. None at all: every experiment fits.
        may_miss: Whether it is no mistake that no experiment fits, because the command line fixes one of the keys, or the values
            that are swept of it.
    """

    where: str
    settings: Mapping[str, Any]
    may_miss: bool

    @classmethod
    def of(cls, where: str, when: Mapping[str, Any], fixed: Collection[str]) -> Selector:
        """The selector of a table `when` below the key `where`.

        Args:
            fixed: Dotted keys that the command line sets.

        Raises:
            ConfigError: A key is in no table of an experiment.
        """
        settings = flatten(when)
        for key in settings:
            check_key(key, f"{where}.when")
        typed = {name.removeprefix("sweep.") for name in fixed}  # a shorter list of values may leave out some
        return cls(where, settings, any(is_fixed(key, typed) or is_fixed(f"{key}.name", typed) for key in settings))

    def fits(self, experiment: Experiment) -> bool:
        """Whether the experiment has all the values; those that it has by default or from its preset count."""
        has = experiment.dump()
        return all(_value(has, key) == value for key, value in self.settings.items())

    def missed(self) -> ConfigError:
        """The error that no experiment fits."""
        return ConfigError(f"{self.where}.when: {dict(self.settings)} fits no point of the sweep")


def check_key(key: str, where: str, more: Collection[str] = ()) -> None:
    """Raise `ConfigError` where a dotted key is in no table of an experiment.

    Args:
        more: What else is allowed there.
    """
    first = key.partition(".")[0]
    if first not in Experiment.model_fields:
        known = [*Experiment.model_fields, *more]
        raise ConfigError(f"{where}.{key}: unknown key{nearest(first, known)}; allowed here: {', '.join(sorted(known))}")


def is_fixed(key: str, fixed: Collection[str]) -> bool:
    """Whether the command line fixes the key, or a table that it is in."""
    return any(f"{key}.".startswith(f"{name}.") for name in fixed)


def _value(settings: Any, key: str) -> Any:
    """The value at a dotted key; of a component, its name. None where there is none."""
    for step in key.split("."):
        if not (step == "name" and isinstance(settings, str)):  # a component without hyperparameters is its name
            settings = settings.get(step) if isinstance(settings, dict) else None
    return settings.get("name", settings) if isinstance(settings, dict) else settings
