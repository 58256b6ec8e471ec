"""Reading the results: runs, rounds, measures, slices and who holds what."""

from __future__ import annotations

import difflib
import math
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsam.results.rows import CLIENT_COLUMNS, ROUND_COLUMNS, ClientRow, Row, Run, Slice
from fedsam.wording import ConfigError


class ResultsReader:
    """The open results file, for reading."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def slices(self, run: str) -> list[Slice]:
        """The slices of a run, earlier rounds first."""
        cells: defaultdict[tuple[int, str], dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for entry in self._connection.execute("SELECT * FROM slices WHERE run = ? ORDER BY round, name, i, j", (run,)):
            cells[entry["round"], entry["name"]][entry["i"]].append((entry["alpha"], _number(entry["loss"])))
        return [
            Slice(
                run=run,
                round=round,
                name=name,
                alphas=tuple(row[0][0] for row in rows.values()),
                losses=tuple(tuple(loss for _, loss in row) for row in rows.values()),
            )
            for (round, name), rows in cells.items()
        ]

    def runs_with_hash(self, config_hash: str, seed: int, dataset: str) -> list[Run]:
        """The runs of an experiment with a seed on a dataset: finished ones first, then diverged ones, each oldest first."""
        order = "status != 'finished', status != 'diverged', rowid"
        query = f"SELECT * FROM runs WHERE config_hash = ? AND seed = ? AND dataset = ? ORDER BY {order}"
        return [Run.from_entry(row) for row in self._connection.execute(query, (config_hash, seed, dataset))]

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        return [Run.from_entry(row) for row in self._connection.execute("SELECT * FROM runs ORDER BY rowid")]

    def rounds(self, run: str, *, clients: bool = True) -> list[Row]:
        """The rounds of a run, in order.

        Args:
            clients: Also read the rows of the clients.
        """
        measures: defaultdict[int, dict[str, float]] = defaultdict(dict)
        of_round: defaultdict[int, list[ClientRow]] = defaultdict(list)
        for entry in self._connection.execute("SELECT round, name, value FROM measures WHERE run = ? ORDER BY round, name", (run,)):
            measures[entry["round"]][entry["name"]] = _number(entry["value"])
        for entry in self._connection.execute("SELECT * FROM clients WHERE run = ? ORDER BY client", (run,)) if clients else ():
            values = {name: entry[name] for name in CLIENT_COLUMNS} | {"train_loss": _number(entry["train_loss"])}
            of_round[entry["round"]].append(ClientRow(**values))
        rows = []
        for entry in self._connection.execute("SELECT * FROM rounds WHERE run = ? ORDER BY round", (run,)):
            values = {name: entry[name] for name in ROUND_COLUMNS} | {"train_loss": _number(entry["train_loss"])}
            rows.append(Row(**values, measures=measures[entry["round"]], clients=tuple(of_round[entry["round"]])))
        return rows

    def curve(self, run: str, measure: str) -> list[tuple[int, float]]:
        """(round, value) of each evaluation of `measure`."""
        query = "SELECT round, value FROM measures WHERE run = ? AND name = ? ORDER BY round"
        return [(entry["round"], _number(entry["value"])) for entry in self._connection.execute(query, (run, measure))]

    def label_distribution(self, run: str) -> NDArray[np.int64]:
        """Number of examples of each client and class of a run, (clients, classes)."""
        shape = self._connection.execute("SELECT clients, classes FROM runs WHERE id = ?", (run,)).fetchone()
        counts = np.zeros(tuple(shape), dtype=np.int64)
        found = [tuple(entry) for entry in self._connection.execute("SELECT client, class, examples FROM holdings WHERE run = ?", (run,))]
        if found:
            client, kind, examples = np.array(found).T
            counts[client, kind] = examples
        return counts

    def class_names(self, run: str) -> tuple[str, ...]:
        """The names of the classes of a run; empty if they have none."""
        return tuple(name for (name,) in self._connection.execute("SELECT name FROM classes WHERE run = ? ORDER BY class", (run,)))

    def find(self, names: Sequence[str]) -> list[Run]:
        """The runs whose ids begin with one of `names`, in the order of `names`, each once.

        Raises:
            ConfigError: No id begins with a name; the message suggests the closest id.
        """
        known = self.runs()
        found: dict[str, Run] = {}
        for name in names:
            fitting = {run.id: run for run in known if name and run.id.startswith(name)}
            if not fitting:
                near = difflib.get_close_matches(name, [run.id for run in known], n=1, cutoff=0.4)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"run: {name!r} is not known{hint}; {self.path} holds {len(known)} runs, an id or the start of one is allowed"
                )
            found |= fitting
        return list(found.values())

    def find_one(self, name: str) -> Run:
        """The run whose id begins with `name`. Raises `ConfigError` where there is none, or more than one."""
        found = self.find([name])
        if len(found) > 1:
            raise ConfigError(f"run: {name!r} is not allowed: {len(found)} runs begin so: {', '.join(one.id for one in found)}")
        return found[0]

    def find_each(self, names: Sequence[str]) -> list[Run]:
        """The run of each name, each once. Raises `ConfigError` as `find_one`."""
        return list({(run := self.find_one(name)).id: run for name in names}.values())

    def tags(self) -> dict[str, list[str]]:
        """The tags of each run that has any, by run id."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for run, tag in self._connection.execute("SELECT run, tag FROM tags ORDER BY tag"):
            found[run].append(tag)
        return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value
