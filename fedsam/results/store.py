"""The results: one append-only SQLite file, `<runs_dir>/fedsam.db`, with every run, round, client and measure.

Each round is one transaction, so a killed run keeps its finished rounds; several processes may write at once (write-ahead log).

SQLite stores NaN as NULL. A NULL `measures.value` or `train_loss` is therefore read back as NaN, so that a diverged run stays readable;
a value that was not measured has no row. Only a NULL `peak_device_memory` means None.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import platform
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedsam.config import ConfigError, Experiment
from fedsam.results.config_hash import config_hash, digest
from fedsam.results.database import DATABASE_NAME, connect, create_database, insert_statement, transaction
from fedsam.results.processes import process_start_time
from fedsam.results.provenance import Provenance
from fedsam.results.rows import CLIENT_COLUMNS, ROUND_COLUMNS, ClientRow, Row, Run, Slice, Status


class DuplicateRunError(RuntimeError):
    """A run of the same experiment has finished or is running.

    Attributes:
        run: That run.
    """

    def __init__(self, run: Run) -> None:
        state = "has finished" if run.status == "finished" else f"is at work on {run.host}"
        super().__init__(f"run {run.id} is the same experiment: it {state}")
        self.run = run


class Results:
    """The open results file; a context manager that closes it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def open(cls, runs_dir: Path | str = "runs", *, create: bool = True) -> Self:
        """Open the results in `runs_dir`; create the file if it is missing and `create` is true.

        Raises:
            ConfigError: The folder cannot be created or read, or the file is missing, of another version, or of another program.
        """
        path = Path(runs_dir) / DATABASE_NAME
        missing = not path.is_file() or not path.stat().st_size  # an empty file is one that is not made yet
        if missing and not create:
            raise ConfigError(f"runs_dir: '{runs_dir}' is not allowed: it holds no {DATABASE_NAME}; runs write one there")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if missing:
                create_database(path)
            connection = connect(path)
        except (OSError, sqlite3.OperationalError) as error:
            raise ConfigError(f"runs_dir: '{runs_dir}' is not allowed: must be a folder that can be written ({error})") from None
        return cls(connection, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def start_run(
        self,
        experiment: Experiment,
        resolved: Mapping[str, Any],
        *,
        dataset: str,
        label_distribution: NDArray[np.integer[Any]],
        provenance: Provenance,
        class_names: Sequence[str] = (),
        once: bool = False,
        restart: bool = False,
    ) -> str:
        """Add a run of this process and return its id.

        Args:
            resolved: Every setting as plain values, defaults of components filled in.
            dataset: The one that is used, which may be the fallback.
            label_distribution: Number of examples of each client and class, (clients, classes).
            class_names: One for each class; empty if they have no names.
            once: Replace unfinished runs of this experiment.
            restart: Among them those that seem to be at work on another machine.

        Raises:
            DuplicateRunError: `once`, and a run of this experiment has finished or is running.
        """
        config, now = json.dumps(resolved, default=str, sort_keys=True), datetime.now(UTC)
        pid = os.getpid()
        columns = {
            "id": f"{now:%Y%m%d-%H%M%S}-{digest(f'{now.isoformat()} {platform.node()} {pid} {config}')[:6]}",
            "name": experiment.name,
            "status": "running",
            "started": now.isoformat(timespec="seconds"),
            "config": config,
            "config_hash": config_hash(resolved, provenance.sources),
            "seed": experiment.seed,
            "dataset": dataset,
            "dataset_wanted": experiment.data.source.name,
            "clients": label_distribution.shape[0],
            "classes": label_distribution.shape[1],
            "git_commit": provenance.git_commit,
            "versions": json.dumps(dict(provenance.versions)),
            "device": provenance.device,
            "command": provenance.command,
            "host": platform.node(),
            "pid": pid,
            "born": process_start_time(pid),
            "heartbeat": now.timestamp(),
        }
        counts = [
            (columns["id"], int(client), int(kind), int(label_distribution[client, kind]))
            for client, kind in np.argwhere(label_distribution)
        ]
        with transaction(self._connection) as connection:
            others = self.runs_with_hash(str(columns["config_hash"]), experiment.seed, dataset) if once else []
            for other in others:
                gone = restart and other.host != columns["host"]
                if other.status == "finished" or (other.status == "running" and not gone):
                    raise DuplicateRunError(other)
                self._delete(other.id)
            connection.execute(insert_statement("runs", columns), columns)
            connection.executemany("INSERT INTO holdings VALUES (?, ?, ?, ?)", counts)
            connection.executemany("INSERT INTO classes VALUES (?, ?, ?)", [(columns["id"], *item) for item in enumerate(class_names)])
        for other in others:
            self._remove_files(other.id)
        return str(columns["id"])

    def append_round(self, row: Row) -> None:
        """Add a round with its measures and clients in one transaction.

        Raises:
            ValueError: The run was never started, or already has this round.
        """
        columns = {name: _plain(getattr(row, name)) for name in ROUND_COLUMNS}
        key = {"run": row.run, "round": row.round}
        clients = [key | {name: _plain(getattr(client, name)) for name in CLIENT_COLUMNS} for client in row.clients]
        measures = [(row.run, row.round, name, float(value)) for name, value in row.measures.items()]
        try:
            with transaction(self._connection) as connection:
                connection.execute(insert_statement("rounds", columns), columns)
                connection.executemany("INSERT INTO measures VALUES (?, ?, ?, ?)", measures)
                connection.executemany(insert_statement("clients", ("run", "round", *CLIENT_COLUMNS)), clients)
        except sqlite3.IntegrityError as error:
            raise ValueError(f"run {row.run!r}, round {row.round}: cannot be added ({error})") from None

    def finish_run(self, run: str, status: Status, error: str | None = None) -> None:
        """Record the final status of a run, and the error of a failed one."""
        with transaction(self._connection) as connection:
            values = (status, error, datetime.now(UTC).isoformat(timespec="seconds"), run)
            if connection.execute("UPDATE runs SET status = ?, error = ?, finished = ? WHERE id = ?", values).rowcount != 1:
                raise ValueError(f"run {run!r} was never started, or another command has taken its place")

    def forget(self, name: str) -> Run:
        """Record a run as interrupted that seems to be at work, because its process on another machine is gone.

        Raises:
            ConfigError: No run, or more than one, has this id; or it is not at work, or at work on this machine.
        """
        run = self.find_one(name)
        if run.status != "running" or run.host == platform.node():
            state = "at work on this machine: end its process" if run.status == "running" else f"{run.status}, not at work"
            raise ConfigError(f"run: {name!r} is not allowed: run {run.id} is {state}")
        self.finish_run(run.id, "interrupted", f"its process on {run.host} is gone")
        return run

    def record_startup(self, run: str, seconds: float) -> None:
        """Record the seconds from the start of a run to its first round."""
        with transaction(self._connection) as connection:
            connection.execute("UPDATE runs SET startup = ? WHERE id = ?", (seconds, run))

    def add_measures(self, run: str, round: int, measures: Mapping[str, float]) -> None:
        """Add measures to a round that has been added."""
        with transaction(self._connection) as connection:
            connection.executemany("INSERT INTO measures VALUES (?, ?, ?, ?)", [(run, round, *item) for item in measures.items()])

    def add_slice(self, slice: Slice) -> None:
        """Add the losses of a slice; its round must have been added."""
        cells = [(slice.run, slice.round, slice.name, *cell) for cell in slice.cells()]
        with transaction(self._connection) as connection:
            connection.executemany("INSERT INTO slices VALUES (?, ?, ?, ?, ?, ?, ?, ?)", cells)

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

    def _delete(self, run: str) -> None:
        for table in ("slices", "clients", "measures", "rounds", "holdings", "classes"):
            self._connection.execute(f"DELETE FROM {table} WHERE run = ?", (run,))
        self._connection.execute("DELETE FROM runs WHERE id = ?", (run,))

    def _remove_files(self, run: str) -> None:
        shutil.rmtree(self.path.parent / run, ignore_errors=True)

    def runs_with_hash(self, config_hash: str, seed: int, dataset: str) -> list[Run]:
        """The runs of an experiment with a seed on a dataset: finished ones first, then by age, oldest first."""
        query = "SELECT * FROM runs WHERE config_hash = ? AND seed = ? AND dataset = ? ORDER BY status != 'finished', rowid"
        return [Run.from_entry(row) for row in self._connection.execute(query, (config_hash, seed, dataset))]

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        return [Run.from_entry(row) for row in self._connection.execute("SELECT * FROM runs ORDER BY rowid")]

    def rounds(self, run: str) -> list[Row]:
        """The rounds of a run, in order."""
        measures: defaultdict[int, dict[str, float]] = defaultdict(dict)
        clients: defaultdict[int, list[ClientRow]] = defaultdict(list)
        for entry in self._connection.execute("SELECT round, name, value FROM measures WHERE run = ? ORDER BY round, name", (run,)):
            measures[entry["round"]][entry["name"]] = _number(entry["value"])
        for entry in self._connection.execute("SELECT * FROM clients WHERE run = ? ORDER BY client", (run,)):
            values = {name: entry[name] for name in CLIENT_COLUMNS} | {"train_loss": _number(entry["train_loss"])}
            clients[entry["round"]].append(ClientRow(**values))
        rows = []
        for entry in self._connection.execute("SELECT * FROM rounds WHERE run = ? ORDER BY round", (run,)):
            values = {name: entry[name] for name in ROUND_COLUMNS} | {"train_loss": _number(entry["train_loss"])}
            rows.append(Row(**values, measures=measures[entry["round"]], clients=tuple(clients[entry["round"]])))
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


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
