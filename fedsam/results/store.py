"""The results: one append-only SQLite file, `<runs_dir>/fedsam.db`, with every run, round, client and measure.

Each round is one transaction, so a killed run keeps its finished rounds; several processes may write at once (write-ahead log).

SQLite stores NaN as NULL. A NULL `measures.value` or `train_loss` is therefore read back as NaN, so that a diverged run stays readable;
a value that was not measured has no row. Only a NULL `peak_device_memory` means None.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fedsam.results.config_hash import config_hash, digest
from fedsam.results.database import DATABASE_NAME, connect, create_database, insert_statement, open_to_read, transaction
from fedsam.results.ownership import DuplicateRunError as DuplicateRunError
from fedsam.results.ownership import is_gone, own_process
from fedsam.results.provenance import Provenance
from fedsam.results.resuming import differences
from fedsam.results.rows import CLIENT_COLUMNS, CONCLUDED, ROUND_COLUMNS, Row, Run, Slice, Status
from fedsam.results.tuning import TuningResults
from fedsam.results.write_queue import StorageError, Write, WriteQueue, can_be_later, reason
from fedsam.wording import ConfigError

if TYPE_CHECKING:
    from fedsam.config import Experiment


class Results(TuningResults):
    """The open results file; a context manager that closes it."""

    _queue: WriteQueue | None = None

    @classmethod
    def open(cls, runs_dir: Path | str = "runs", *, create: bool = True) -> Self:
        """Open the results in `runs_dir`, creating the file if it is missing.

        Args:
            create: False: the file must be there, and is opened for reading where it cannot be written.

        Raises:
            ConfigError: The folder cannot be created or read, or the file is missing, of another version, or of another program.
        """
        path = Path(runs_dir) / DATABASE_NAME
        if not create:
            return cls(open_to_read(path), path)
        try:
            missing = not path.is_file() or not path.stat().st_size  # an empty file is one that is not made yet
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
        """Add a run of this process, or continue one, and return its id.

        Args:
            resolved: Every setting as plain values, defaults of components filled in.
            dataset: The one that is used, which may be the fallback.
            label_distribution: Number of examples of each client and class, (clients, classes).
            class_names: One for each class; empty if they have no names.
            once: Continue the latest unfinished run of this experiment, if what its numbers depend on is the same (`differences`): the
                rounds that it has stay until others take their places.
            restart: Also one that seems to be at work on another machine.

        Raises:
            DuplicateRunError: `once`, and a run of this experiment has finished, has diverged or is running.
            StorageError: Another process holds the file for long, or there is no space.
        """
        config, now = json.dumps(resolved, default=str, sort_keys=True), datetime.now(UTC)
        columns = {
            "id": f"{now:%Y%m%d-%H%M%S}-{digest(f'{now.isoformat()} {platform.node()} {os.getpid()} {config}')[:6]}",
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
            **own_process(),
            "heartbeat": now.timestamp(),
        }
        counts = [
            (columns["id"], int(client), int(kind), int(label_distribution[client, kind]))
            for client, kind in np.argwhere(label_distribution)
        ]
        with self._transaction() as connection:
            others = self.runs_with_hash(str(columns["config_hash"]), experiment.seed, dataset) if once else []
            for other in others:
                if other.status in CONCLUDED or (other.status == "running" and not is_gone(other, restart)):
                    raise DuplicateRunError(other)
            for other in reversed(others):
                if not differences(other.versions, provenance.versions):
                    self._take(other.id)
                    return other.id
            connection.execute(insert_statement("runs", columns), columns)
            connection.executemany("INSERT INTO holdings VALUES (?, ?, ?, ?)", counts)
            connection.executemany("INSERT INTO classes VALUES (?, ?, ?)", [(columns["id"], *item) for item in enumerate(class_names)])
        return str(columns["id"])

    def append_round(self, row: Row, *, replace: bool = False) -> None:
        """Add a round with its measures and clients in one transaction.

        Args:
            replace: In the place of that round as an earlier process left it, its slices included.

        Raises:
            ValueError: This process is not at the run, or it already has this round.
        """
        columns = {name: _plain(getattr(row, name)) for name in ROUND_COLUMNS}
        key = {"run": row.run, "round": row.round}
        clients = [key | {name: _plain(getattr(client, name)) for name in CLIENT_COLUMNS} for client in row.clients]
        measures = [(row.run, row.round, name, float(value)) for name, value in row.measures.items()]

        def write(connection: sqlite3.Connection) -> None:
            self.check_own(row.run)
            for table in ("slices", "clients", "measures", "rounds") if replace else ():
                connection.execute(f"DELETE FROM {table} WHERE run = :run AND round = :round", key)
            connection.execute(insert_statement("rounds", columns), columns)
            connection.executemany("INSERT INTO measures VALUES (?, ?, ?, ?)", measures)
            connection.executemany(insert_statement("clients", ("run", "round", *CLIENT_COLUMNS)), clients)

        try:
            self._write(write)
        except sqlite3.IntegrityError as error:
            raise ValueError(f"run {row.run!r}, round {row.round}: cannot be added ({error})") from None

    def finish_run(self, run: str, status: Status, error: str | None = None) -> None:
        """Record the final status of a run, and why it failed or diverged.

        Raises:
            RunTakenError: This process is not at the run.
            StorageError: The end, or a round, cannot be written.
        """

        def write(connection: sqlite3.Connection) -> None:
            self.check_own(run)
            self._end(run, status, error)

        self._write(write)
        if self._queue is not None:
            self._queue.finish()

    def record_startup(self, run: str, seconds: float) -> None:
        """Record the seconds from the start of a run to its first round."""
        self._write(lambda connection: connection.execute("UPDATE runs SET startup = ? WHERE id = ?", (seconds, run)))

    def record_other_cpu(self, run: str, share: float) -> None:
        """Record the share of this machine's CPU time that other processes took during a run."""
        self._write(lambda connection: connection.execute("UPDATE runs SET other_cpu = ? WHERE id = ?", (share, run)))

    def add_slice(self, slice: Slice) -> None:
        """Add the losses of a slice; its round must have been added."""
        cells = [(slice.run, slice.round, slice.name, *cell) for cell in slice.cells()]
        self._write(lambda connection: connection.executemany("INSERT INTO slices VALUES (?, ?, ?, ?, ?, ?, ?, ?)", cells))

    def delete(self, name: str) -> Run:
        """Delete a run and its files.

        Raises:
            ConfigError: No run, or more than one, has this id; or it is at work.
        """
        run = self.find_one(name)
        if run.status == "running":
            raise ConfigError(f"run: {name!r} is not allowed: run {run.id} is at work on {run.host}")
        with self._transaction():
            self._delete(run.id)
        self._remove_files(run.id)
        return run

    def set_tags(self, name: str, tags: Sequence[str]) -> Run:
        """Give a run these tags in place of those that it has. Raises `ConfigError` where no run, or more than one, has this id."""
        run = self.find_one(name)
        with self._transaction() as connection:
            connection.execute("DELETE FROM tags WHERE run = ?", (run.id,))
            connection.executemany("INSERT INTO tags VALUES (?, ?)", [(run.id, tag) for tag in dict.fromkeys(tags)])
        return run

    def queue_writes(self, warn: Callable[[str], None]) -> None:
        """From now on have rounds and the end of a run wait in memory where they cannot be written; `warn` is told."""
        self._queue = WriteQueue(self._connection, self.path, warn)

    def _write(self, write: Write) -> None:
        if self._queue is not None:
            self._queue.add(write)
        else:
            with self._transaction() as connection:
                write(connection)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """As `transaction`. Raises `StorageError` where another process holds the file for long, or there is no space."""
        try:
            with transaction(self._connection) as connection:
                yield connection
        except sqlite3.OperationalError as error:
            if can_be_later(error):
                raise StorageError(reason(self.path, error)) from None
            raise

    def _delete(self, run: str) -> None:
        for table in ("slices", "clients", "measures", "rounds", "holdings", "classes", "tags", "trials", "tuned"):
            self._connection.execute(f"DELETE FROM {table} WHERE run = ?", (run,))
        self._connection.execute("DELETE FROM runs WHERE id = ?", (run,))

    def _remove_files(self, run: str) -> None:
        shutil.rmtree(self.path.parent / run, ignore_errors=True)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
