"""Conditions: what runs must share for their methods to be compared, a number of clients and the data settings in which runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.analysis.labels import Settings, component_variation, flatten, is_about_data, plain
from fedsam.formatting import plural, printable
from fedsam.results.rows import Run
from fedsam.wording import is_number


@dataclass(frozen=True, order=True)
class DataSetting:
    """The data settings of some runs, of those in which all runs differ.

    Attributes:
        place: Among the data settings of all runs, from 0: lower numbers first, so that concentrations ascend.
        text: The settings in words.
        is_number: Whether numbers alone tell the data settings apart, so that their order has a meaning.
    """

    place: int
    text: str
    is_number: bool


class Condition(int):
    """A number of clients, with the data settings where runs differ in any; without them it is that number and nothing else.

    Conditions are ordered by data setting, then by number of clients. Two are equal where both agree.

    Attributes:
        data: None where all runs have the same data settings.
    """

    data: DataSetting | None

    def __new__(cls, clients: int, data: DataSetting | None = None) -> Condition:
        self = super().__new__(cls, clients)
        self.data = data
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and int(self) == int(other) and self.data == getattr(other, "data", None)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(int(self)) if self.data is None else hash((int(self), self.data))

    def __lt__(self, other: int) -> bool:
        return _order(self) < _order(other)

    def __le__(self, other: int) -> bool:
        return _order(self) <= _order(other)

    def __gt__(self, other: int) -> bool:
        return _order(self) > _order(other)

    def __ge__(self, other: int) -> bool:
        return _order(self) >= _order(other)


def _order(clients: int) -> tuple[int, int]:
    data = clients.data if isinstance(clients, Condition) else None
    return data.place if data else -1, int(clients)


def data_text(clients: int) -> str:
    """The data settings of a condition in words; empty where all runs have the same."""
    return clients.data.text if isinstance(clients, Condition) and clients.data else ""


def condition_text(clients: int) -> str:
    """A condition in words.

    >>> condition_text(5), condition_text(Condition(5, DataSetting(0, "dirichlet(alpha=0.1)", True)))
    ('5 clients', '5 clients, dirichlet(alpha=0.1)')
    """
    return ", ".join(filter(None, [plural(int(clients), "client"), data_text(clients)]))


def condition_name(clients: int) -> str:
    """A condition as part of a file name."""
    data = clients.data if isinstance(clients, Condition) else None
    return f"{int(clients)}-clients" + (f"-data-{data.place + 1}" if data else "")


def conditions(each: Sequence[Settings]) -> list[Condition]:
    """The condition of each run, of which the settings by dotted key are given."""
    keys = [key for key in dict.fromkeys(key for one in each for key in one) if is_about_data(key) and _differ(key, each)]
    values = [tuple(plain(one.get(key)) for key in keys) for one in each]
    distinct = dict(zip(values, each, strict=True))
    places = sorted(distinct, key=lambda value: tuple(map(_sortable, value)))
    numbers = len(keys) == 1 and all(is_number(one.get(keys[0])) for one in distinct.values())
    shown = list(distinct.values())
    found = {value: DataSetting(place, _text(distinct[value], shown, keys), numbers) for place, value in enumerate(places)}
    return [Condition(one["data.clients"], found[value] if keys else None) for one, value in zip(each, values, strict=True)]


def run_conditions(runs: Sequence[Run]) -> dict[str, Condition]:
    """The condition of each run by its id."""
    return dict(zip((run.id for run in runs), conditions([flatten(run) for run in runs]), strict=True))


def _differ(key: str, each: Sequence[Settings]) -> bool:
    return len({plain(one.get(key)) for one in each}) > 1


def _sortable(text: str) -> tuple[bool, float, str]:
    """Numbers by size, before texts in alphabetical order."""
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text


def _text(settings: Settings, each: Sequence[Settings], keys: Sequence[str]) -> str:
    partition = component_variation(settings, each, "data.partition")
    unset = {key for key in keys if key.startswith("data.dataset.") and settings.get(key) is None}  # settings of another dataset
    rest = [key for key in sorted(keys, key="data.dataset".__ne__) if key not in unset and not key.startswith("data.partition.")]
    others = [str(settings.get(key)) if key == "data.dataset" else f"{key.rpartition('.')[2]}={plain(settings.get(key))}" for key in rest]
    return printable(", ".join(filter(None, [*others, partition])))
