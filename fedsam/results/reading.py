"""Reading the results: runs, rounds, measures, slices and who holds what."""

from __future__ import annotations

import difflib
import math
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsam.results.database import DamagedError, held_by, is_busy
from fedsam.results.rows import CLIENT_COLUMNS, ROUND_COLUMNS, ClientRow, Row, Run, Slice
from fedsam.wording import ConfigError


class ResultsReader:
    """The open results file, for reading.

    Attributes:
        left_out: Runs that could not be read so far, with the reason.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self.left_out = dict[str, str]()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def slices(self, run: str) -> list[Slice]:
        """The slices of a run, earlier rounds first."""
        cells: defaultdict[tuple[int, str], dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for entry in self._select("SELECT * FROM slices WHERE run = ? ORDER BY round, name, i, j", (run,)):
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
        return self._runs(f"WHERE config_hash = ? AND seed = ? AND dataset = ? ORDER BY {order}", (config_hash, seed, dataset))

    def runs(self) -> list[Run]:
        """Every run, oldest first. One that cannot be read is left out, and a line on stderr says so."""
        before, found = self._ids(), self._runs("ORDER BY rowid")
        missing = before - {run.id for run in found}
        for name in sorted(missing & self._ids(), key=str) if missing else ():  # others start and delete runs meanwhile
            if f"run {name}" not in self.left_out and not any(one.startswith("the run in") for one in self.left_out):
                self.leave_out(f"run {name}", "its row is not there")
        return found

    def _ids(self) -> set[str]:
        """The ids of all runs, from the index of their table, which is there where the table is damaged."""
        return {name for (name,) in self._select("SELECT id FROM runs INDEXED BY sqlite_autoindex_runs_1 WHERE id > ''")}

    def leave_out(self, run: str, reason: object) -> None:
        """Remember that a run is left out because it is damaged, and say so once on stderr."""
        if run not in self.left_out:
            self.left_out[run] = str(reason)
            print(
                f"WARNING: {self.path}: {run} is damaged and left out ({reason}); `fedsam doctor --runs-dir {self.path.parent}` says more",
                file=sys.stderr,
            )

    def _runs(self, which: str, parameters: Sequence[object] = ()) -> list[Run]:
        try:
            entries = self._select(f"SELECT * FROM runs {which}", parameters)
        except DamagedError:
            entries = self._readable_runs(which, parameters)
        found = []
        for entry in entries:
            try:
                found.append(Run.from_entry(entry))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                self.leave_out(f"run {entry['id']}", error)
        return found

    def _readable_runs(self, which: str, parameters: Sequence[object]) -> list[sqlite3.Row]:
        """The runs that can be read by themselves, where not all can be read at once."""
        try:
            places = [place for (place,) in self._select("SELECT rowid FROM runs ORDER BY rowid")]
        except DamagedError:  # of the table; ids and places are in its index, too
            places = sorted(place for (place,) in self._select("SELECT rowid FROM runs INDEXED BY sqlite_autoindex_runs_1 WHERE id > ''"))
        entries = []
        for place in places:
            try:
                entries += self._select(f"SELECT * FROM (SELECT *, rowid FROM runs WHERE rowid = ?) {which}", (place, *parameters))
            except DamagedError as error:
                self.leave_out(f"the run in row {place}", error.__cause__)
        return entries

    def _select(self, query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """The rows of a query.

        Raises:
            ConfigError: Another process holds the file.
            DamagedError: They cannot be read.
        """
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            if is_busy(error):
                raise ConfigError(f"runs_dir: {self.path} is locked{held_by(self.path)}; try again when it is free") from None
            raise DamagedError(self.path, error) from error

    def rounds(self, run: str, *, clients: bool = True) -> list[Row]:
        """The rounds of a run, in order. Raises `DamagedError` where they cannot be read.

        Args:
            clients: Also read the rows of the clients.
        """
        measures: defaultdict[int, dict[str, float]] = defaultdict(dict)
        of_round: defaultdict[int, list[ClientRow]] = defaultdict(list)
        for entry in self._select("SELECT round, name, value FROM measures WHERE run = ? ORDER BY round, name", (run,)):
            measures[entry["round"]][entry["name"]] = _number(entry["value"])
        for entry in self._select("SELECT * FROM clients WHERE run = ? ORDER BY client", (run,)) if clients else ():
            values = {name: entry[name] for name in CLIENT_COLUMNS} | {"train_loss": _number(entry["train_loss"])}
            of_round[entry["round"]].append(ClientRow(**values))
        rows = []
        for entry in self._select("SELECT * FROM rounds WHERE run = ? ORDER BY round", (run,)):
            values = {name: entry[name] for name in ROUND_COLUMNS} | {"train_loss": _number(entry["train_loss"])}
            rows.append(Row(**values, measures=measures[entry["round"]], clients=tuple(of_round[entry["round"]])))
        return rows

    def curve(self, run: str, measure: str) -> list[tuple[int, float]]:
        """(round, value) of each evaluation of `measure`."""
        query = "SELECT round, value FROM measures WHERE run = ? AND name = ? ORDER BY round"
        return [(entry["round"], _number(entry["value"])) for entry in self._select(query, (run, measure))]

    def label_distribution(self, run: str) -> NDArray[np.int64]:
        """Number of examples of each client and class of a run, (clients, classes)."""
        (shape,) = self._select("SELECT clients, classes FROM runs WHERE id = ?", (run,))
        counts = np.zeros(tuple(shape), dtype=np.int64)
        found = [tuple(entry) for entry in self._select("SELECT client, class, examples FROM holdings WHERE run = ?", (run,))]
        if found:
            client, kind, examples = np.array(found).T
            counts[client, kind] = examples
        return counts

    def class_names(self, run: str) -> tuple[str, ...]:
        """The names of the classes of a run; empty if they have none."""
        return tuple(name for (name,) in self._select("SELECT name FROM classes WHERE run = ? ORDER BY class", (run,)))

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

    def trial_runs(self) -> set[str]:
        """Ids of the runs that are trials of a study."""
        return {run for (run,) in self._select("SELECT DISTINCT run FROM trials")}

    def tags(self) -> dict[str, list[str]]:
        """The tags of each run that has any, by run id."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for run, tag in self._select("SELECT run, tag FROM tags ORDER BY tag"):
            found[run].append(tag)
        return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value
