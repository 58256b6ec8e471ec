"""Every setting of a file by its dotted key, as the fields of `fedsam.config.Experiment` declare it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from experiments.settings.names import KINDS
from experiments.tuning.settings import Tuning
from fedsam import wording
from fedsam.component import Component
from fedsam.config import Experiment
from fedsam.documentation import schemas

# Where a kind of components is named, besides the setting that `KINDS` has.
ALSO = {"simulate.bandwidth": "distributions", "client.rho_schedule": "schedules"}
KIND_OF = {kind.setting: name for name, kind in KINDS.items()} | ALSO


class Setting(NamedTuple):
    """A setting as a person reads it.

    Attributes:
        key: Dotted, as after `-o`.
        default: Empty where it must be given.
        allowed: Its type and range.
        meaning: A sentence or two.
        kind: Of the components that it names, as `fedsam list` says it; empty where it names none.
    """

    key: str
    default: str
    allowed: str
    meaning: str
    kind: str = ""


class Table(NamedTuple):
    """A table of settings.

    Attributes:
        key: Dotted; empty for the settings that stand in no table.
        meaning: What the settings have in common.
        settings: Without those of tables inside it.
    """

    key: str
    meaning: str
    settings: tuple[Setting, ...]


# What a file may have besides the settings of a run; `experiments.settings.sweep.expand` says how they go together.
SWEEP = Table(
    "sweep",
    "What a file varies: every other key is a dotted setting with the list of its values, and each combination of them is a run.",
    (
        Setting("sweep.seeds", "", "list of whole numbers >= 0", "Values of `seed`: each combination is run once for each."),
        Setting("sweep.zip", "", "list of tables", "In each table, settings whose lists are as long as each other and vary together."),
        Setting(
            "sweep.overrides",
            "",
            "list of tables",
            "Changes of some combinations: `when` has the settings that choose them, `set` what they are changed to.",
        ),
        Setting("sweep.max_runs", "1000", "whole number >= 1", "A sweep of more runs is an error."),
    ),
)


def tables() -> tuple[Table, ...]:
    """All tables of settings, in the order of the file, each before those inside it."""
    return (*_tables(Experiment, ""), SWEEP, *_tables(Tuning, "tune"))


def settings() -> dict[str, Setting]:
    """All settings by key."""
    return {setting.key: setting for table in tables() for setting in table.settings}


def _tables(model: type[BaseModel], key: str) -> Iterator[Table]:
    found, inside = [], []
    for name, schema in schemas(model).items():
        field = f"{key}.{name}".lstrip(".")
        if table := _table_of(model.model_fields[name].annotation):
            inside.append((table, field))
        else:
            found.append(_setting(field, schema))
    yield Table(key, " ".join((model.__doc__ or "").split()), tuple(found))
    for table, field in inside:
        yield from _tables(table, field)


def _table_of(annotation: Any) -> type[BaseModel] | None:
    """The class of a field that is a table of settings, set or not; None of any other field."""
    classes = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type) and issubclass(one, BaseModel)]
    return next((one for one in classes if one is not Component), None)


def _setting(key: str, schema: Mapping[str, Any]) -> Setting:
    default = (wording.value(schema["default"]) or '""') if "default" in schema else ""
    return Setting(key, default, wording.allowed(schema, brief=False), schema["description"], KIND_OF.get(key, ""))
