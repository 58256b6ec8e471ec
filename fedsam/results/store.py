"""What runs leave behind: one append-only SQLite file, `<runs_dir>/fedsam.db`, with every run, round, client and measure.

Each round is one transaction, so a killed run keeps what it had; several processes may write at once (write-ahead log).

SQLite has no NaN and stores it as NULL. Here a NULL `measures.value` or `train_loss` therefore means "measured, and not a number" and
is read back as NaN, so that a diverged run stays readable; what was not measured has no row at all. Only in `peak_device_memory` does
NULL mean "none".
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
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedsam.config import ConfigError, Experiment
from fedsam.renamed import with_current_names
from fedsam.results.config_hash import config_hash, digest
from fedsam.results.database import FILE, begin, connect, insert, transaction
from fedsam.results.provenance import Provenance, born, gone
from fedsam.results.rows import CLIENT_COLUMNS, ROUND_COLUMNS, ClientRow, Row, Run, Slice, Status


class TakenError(RuntimeError):
    """An experiment needs no run: one has finished, or is at work.

    Attributes:
        run: That run.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(f"run {run.id} is the same experiment: it {'has finished' if run.status == 'finished' else 'is at work'}")
        self.run = run


class Results:
    """The results file, open; a context manager that closes it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def open(cls, runs_dir: Path | str = "runs", *, create: bool = True) -> Self:
        """The results in `runs_dir`, begun there if need be and `create` allows it.

        Raises:
            ConfigError: The folder cannot be made or read, or the file is missing, written by a newer version, or not ours.
        """
        path = Path(runs_dir) / FILE
        if not create and not path.is_file():
            raise ConfigError(f"runs_dir: '{runs_dir}' is not allowed: it holds no {FILE}; runs write one there")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                begin(path)
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

    def start(
        self,
        experiment: Experiment,
        resolved: Mapping[str, Any],
        *,
        dataset: str,
        label_distribution: NDArray[np.integer[Any]],
        provenance: Provenance,
        class_names: Sequence[str] = (),
        once: bool = False,
    ) -> str:
        """Begin a run of this process and give its id.

        Args:
            resolved: Every setting with the defaults of its parts, as plain values.
            dataset: The one really used, which may be the fallback.
            label_distribution: Examples of each class that each client holds, (clients, classes).
            class_names: One for each class, where they have names.
            once: Take the place of the runs of this experiment that did not finish.

        Raises:
            TakenError: `once`, and a run of this experiment has finished or is at work.
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
            "born": born(pid),
        }
        held = [
            (columns["id"], int(client), int(kind), int(label_distribution[client, kind]))
            for client, kind in np.argwhere(label_distribution)
        ]
        with transaction(self._connection) as connection:
            others = self.same(str(columns["config_hash"]), experiment.seed, dataset) if once else []
            for other in others:
                if other.status in ("finished", "running"):
                    raise TakenError(other)
                self._delete(other.id)
            connection.execute(insert("runs", columns), columns)
            connection.executemany("INSERT INTO holdings VALUES (?, ?, ?, ?)", held)
            connection.executemany("INSERT INTO classes VALUES (?, ?, ?)", [(columns["id"], *item) for item in enumerate(class_names)])
        for other in others:
            self._remove_files(other.id)
        return str(columns["id"])

    def append(self, row: Row) -> None:
        """Keep a round, with its measures and clients, all or nothing.

        Raises:
            ValueError: The run was never started, or already has this round.
        """
        columns = {name: _plain(getattr(row, name)) for name in ROUND_COLUMNS}
        key = {"run": row.run, "round": row.round}
        clients = [key | {name: _plain(getattr(client, name)) for name in CLIENT_COLUMNS} for client in row.clients]
        measures = [(row.run, row.round, name, float(value)) for name, value in row.measures.items()]
        try:
            with transaction(self._connection) as connection:
                connection.execute(insert("rounds", columns), columns)
                connection.executemany("INSERT INTO measures VALUES (?, ?, ?, ?)", measures)
                connection.executemany(insert("clients", ("run", "round", *CLIENT_COLUMNS)), clients)
        except sqlite3.IntegrityError as error:
            raise ValueError(f"run {row.run!r}, round {row.round}: cannot be added ({error})") from None

    def finish(self, run: str, status: Status, error: str | None = None) -> None:
        """Close a run with its status and, when it failed, why."""
        with transaction(self._connection) as connection:
            values = (status, error, datetime.now(UTC).isoformat(timespec="seconds"), run)
            if connection.execute("UPDATE runs SET status = ?, error = ?, finished = ? WHERE id = ?", values).rowcount != 1:
                raise ValueError(f"run {run!r} was never started")

    def begun(self, run: str, seconds: float) -> None:
        """Keep how long a run took to start."""
        with transaction(self._connection) as connection:
            connection.execute("UPDATE runs SET startup = ? WHERE id = ?", (seconds, run))

    def keep_slice(self, slice: Slice) -> None:
        """Keep the losses of a slice, once its round is kept."""
        betas = slice.alphas if len(slice.losses[0]) > 1 else (0.0,)
        cells = [
            (slice.run, slice.round, slice.name, i, j, slice.alphas[i], betas[j], loss)
            for i, row in enumerate(slice.losses)
            for j, loss in enumerate(row)
        ]
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

    def same(self, config_hash: str, seed: int, dataset: str) -> list[Run]:
        """The runs of one experiment with one seed on one dataset, oldest first; one that finished first of all."""
        query = "SELECT * FROM runs WHERE config_hash = ? AND seed = ? AND dataset = ? ORDER BY status != 'finished', rowid"
        return [_run(row) for row in self._connection.execute(query, (config_hash, seed, dataset))]

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        return [_run(row) for row in self._connection.execute("SELECT * FROM runs ORDER BY rowid")]

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
        """(round, value) of each time that `measure` was taken."""
        query = "SELECT round, value FROM measures WHERE run = ? AND name = ? ORDER BY round"
        return [(entry["round"], _number(entry["value"])) for entry in self._connection.execute(query, (run, measure))]

    def label_distribution(self, run: str) -> NDArray[np.int64]:
        """Examples of each class that each client of a run holds, (clients, classes)."""
        shape = self._connection.execute("SELECT clients, classes FROM runs WHERE id = ?", (run,)).fetchone()
        counts = np.zeros(tuple(shape), dtype=np.int64)
        held = [tuple(entry) for entry in self._connection.execute("SELECT client, class, examples FROM holdings WHERE run = ?", (run,))]
        if held:
            client, kind, examples = np.array(held).T
            counts[client, kind] = examples
        return counts

    def class_names(self, run: str) -> tuple[str, ...]:
        """The names of the classes of a run; empty where they have only numbers."""
        return tuple(name for (name,) in self._connection.execute("SELECT name FROM classes WHERE run = ? ORDER BY class", (run,)))

    def find(self, names: Sequence[str]) -> list[Run]:
        """The runs whose ids begin with one of `names`, in the order of `names`, each once.

        Raises:
            ConfigError: A name fits no run; the nearest id is named.
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


def _run(entry: sqlite3.Row) -> Run:
    values = {f.name: entry[f.name] for f in fields(Run)} | {"config": _config(entry["config"]), "versions": json.loads(entry["versions"])}
    if values["status"] == "running" and gone(entry["host"], entry["pid"], entry["born"]):
        values["status"] = "interrupted"
    return Run(**values)


def _config(text: str) -> dict[str, Any]:
    """The settings of a run, whenever it was stored: with the present names of components, and without what is no setting any more."""
    config: dict[str, Any] = with_current_names(json.loads(text))
    config.get("compute", {}).pop("engine", None)
    return config


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
