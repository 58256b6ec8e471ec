"""What a dotted key names: a table of settings, a setting, or a hyperparameter of the components that a setting names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import NamedTuple

from experiments.reference import settings
from experiments.reference.settings import Setting, Table
from experiments.settings import descriptions, names
from fedsam.wording import ConfigError

MOST = 5  # keys that a message proposes


class Use(NamedTuple):
    """What a hyperparameter is to components that declare it alike.

    Attributes:
        names: Of the components.
        default: Empty where it must be given.
        allowed: Its type and range.
        meaning: A sentence.
    """

    names: tuple[str, ...]
    default: str
    allowed: str
    meaning: str


class Hyperparameter(NamedTuple):
    """A hyperparameter by its key.

    Attributes:
        key: Dotted, as after `-o`.
        kind: Of the components, as `fedsam list` says it.
        uses: In the order of the registry.
    """

    key: str
    kind: str
    uses: tuple[Use, ...]


def find(key: str) -> Table | Setting | Hyperparameter:
    """What `key` names; `X.name` is the setting X, and a component inside another has the hyperparameters of its kind.

    Raises:
        ConfigError: It names nothing; the message has the keys that are most like it.
    """
    wanted = key.removesuffix(".name")
    known: dict[str, Table | Setting] = {table.key: table for table in settings.tables() if table.key}
    known |= settings.settings()
    if wanted in known:
        return known[wanted]
    place, _, name = wanted.rpartition(".")
    while place.endswith(".inner"):
        place = place.removesuffix(".inner")
    setting = known.get(place)
    if isinstance(setting, Setting) and setting.kind and (uses := tuple(_uses(setting.kind, name))):
        return Hyperparameter(wanted, setting.kind, uses)
    raise ConfigError(f"key: {key!r} is not known{_proposal(key, [*known, *_hyperparameters()])}; `fedsam explain` lists all settings")


def _uses(kind: str, name: str) -> Iterator[Use]:
    """The declarations of a hyperparameter that differ, each with the components that have it."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for component, described in descriptions.of(kind).items():
        for setting in described.settings:
            if setting.name == name:
                found.setdefault((setting.default, setting.allowed, setting.meaning), []).append(component)
    for (default, allowed, meaning), components in found.items():
        yield Use(tuple(components), default, allowed, meaning)


def _hyperparameters() -> Iterator[str]:
    for setting in settings.settings().values():
        if setting.kind:
            yield from {f"{setting.key}.{one.name}": None for each in descriptions.of(setting.kind).values() for one in each.settings}


def _proposal(key: str, known: list[str]) -> str:
    """What a wrong key may have meant: the end of another, the name of a component, or a key that is written much the same."""
    if hint := names.hint(key):
        return f": {hint}"
    ends = [one for one in known if one.endswith(f".{key}")]
    close = ends[:MOST] or difflib.get_close_matches(key, known, n=MOST, cutoff=0.7)
    return f", did you mean {' or '.join(close)}?" if close else ""
