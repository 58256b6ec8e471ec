"""Runs in a list: what each came to, which of them are wanted, and in which order."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from fedsam.overrides import flatten
from fedsam.results.database import DamagedError
from fedsam.results.final import diverged_round, final_measures
from fedsam.results.reading import ResultsReader
from fedsam.results.rows import Run
from fedsam.wording import ConfigError, nearest

ORDERS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class ListedRun:
    """A run of a list.

    Attributes:
        run: The run.
        rounds: Number of its rounds.
        accuracy: Final test accuracy, a fraction; None before the first evaluation, NaN where it was stopped because it diverged.
        loss: Final test loss, likewise.
        status: That of the run; `diverged` where it has finished or is running so.
        diverged: The round since which it is; None where it is not.
        tags: Given by users.
    """

    run: Run
    rounds: int
    accuracy: float | None
    loss: float | None
    status: str
    diverged: int | None
    tags: tuple[str, ...]

    @property
    def columns(self) -> dict[str, Any]:
        """What it can be chosen and sorted by: its columns, and its settings by dotted key."""
        run, settings = self.run, flatten(self.run.config)
        components = {key.removesuffix(".name"): value for key, value in settings.items() if key.endswith(".name")}
        own = {
            "run": run.id,
            "method": run.method,
            "dataset": run.dataset,
            "clients": run.clients,
            "seed": run.seed,
            "started": run.started,
        }
        found = {"rounds": self.rounds, "accuracy": self.accuracy, "loss": self.loss, "status": self.status, "tag": self.tags}
        return settings | components | own | found


def listed_runs(results: ResultsReader, where: Sequence[str] = (), sort: str = "", *, trials: bool = True) -> list[ListedRun]:
    """The runs, oldest first. One that cannot be read is left out, and a line on stderr says so.

    Args:
        where: Conditions that all must hold, such as `accuracy>0.5`, `method=sam*` and `client.epochs!=1`.
        sort: A column or setting to sort by, the highest first after a `-`; runs without a value come last.
        trials: Whether the trials of tuning are listed as well.

    Raises:
        ConfigError: A condition cannot be read, or no run has the column or setting.
    """
    tags = results.tags()
    rows, left_out = [], set[str]() if trials else results.trial_runs()
    for run in results.runs():
        if run.id in left_out:
            continue
        try:
            one = _listed(results, run, tags.get(run.id, ()))
            rows.append((one, one.columns))
        except (DamagedError, ValueError, TypeError, LookupError, AttributeError) as error:
            results.leave_out(f"run {run.id}", error.__cause__ or error)
    known = {key for _, columns in rows for key in columns}
    for condition in where:
        key, order, wanted = _parsed(condition, known)
        rows = [(one, columns) for one, columns in rows if _holds(columns.get(key), order, wanted)]
    if sort:
        key = _known(sort.removeprefix("-"), known, "sort")
        there = [(one, columns) for one, columns in rows if _is_given(columns.get(key))]
        there.sort(key=lambda item: _rank(item[1][key]), reverse=sort.startswith("-"))
        rows = there + [(one, columns) for one, columns in rows if not _is_given(columns.get(key))]
    return [one for one, _ in rows]


def _listed(results: ResultsReader, run: Run, tags: Sequence[str]) -> ListedRun:
    rows = results.rounds(run.id, clients=False)
    final = final_measures(rows, run.config["measure"]["last"])
    accuracy, loss = (math.nan, math.nan) if run.status == "diverged" else (final.get("test_accuracy"), final.get("test_loss"))
    since = diverged_round(rows, run.status) if run.status in ("finished", "running", "diverged") else None
    return ListedRun(run, len(rows), accuracy, loss, run.status if since is None else "diverged", since, tuple(tags))


def _parsed(condition: str, known: set[str]) -> tuple[str, str, str]:
    """Key, comparison and value of a condition."""
    found = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=|!=|=|<|>)(.*)", condition, re.DOTALL)
    if found is None:
        raise ConfigError(f"where: {condition!r} is not allowed: must be KEY=VALUE, or with !=, <, <=, > or >= in place of =")
    key, order, wanted = found.groups()
    return _known(key, known, "where"), order, wanted.strip()


def _known(key: str, known: set[str], option: str) -> str:
    if known and key not in known:
        raise ConfigError(f"{option}: {key!r} is not known{nearest(key, sorted(known))}; columns and settings of runs are allowed")
    return key


def _holds(value: Any, order: str, wanted: str) -> bool:
    if order == "!=":
        return not _holds(value, "=", wanted)
    if isinstance(value, list | tuple):
        return any(_holds(each, order, wanted) for each in value)
    if not _is_given(value):
        return order == "=" and wanted == ""
    try:
        numbers = (float(value), float(wanted))
    except (TypeError, ValueError):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return fnmatchcase(text, wanted) if order == "=" else bool(ORDERS[order](text, wanted))
    return numbers[0] == numbers[1] if order == "=" else bool(ORDERS[order](*numbers))


def _is_given(value: Any) -> bool:
    return value not in (None, ()) and not (isinstance(value, float) and math.isnan(value))


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers before texts, each among themselves."""
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, "" if is_number else str(value)
