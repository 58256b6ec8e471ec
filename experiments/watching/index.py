"""What there is to know of every run without its settings and rounds, kept up to date by short queries for what is new."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.analysis.labels import comparable_text
from fedsam.formatting import printable
from fedsam.results.database import DATABASE_NAME, connect
from fedsam.results.processes import process_ended
from fedsam.wording import ConfigError

AT_ONCE = 500  # ids in one query
RESYNC_SECONDS = 30.0  # after which the status of every run is read again: one that was continued has no round yet
SETTINGS = (
    *("data.examples", "budget", "rounds", "method"),
    *(f"compute.{key}" for key in ("grid", "actors", "cpus_per_actor", "gpus_per_actor", "ray_address")),
    *("client.optimizer.name", "client.correction.name", "server.strategy.name"),
)
SAME = ("id", "error", "started", "finished", "seed", "dataset", "clients", "command", "heartbeat", "startup")  # shown as they are
COLUMNS = "rowid, id, name, status, error, started, finished, seed, dataset, clients, command, host, pid, born, heartbeat, startup"
# A run's settings may be damaged: it is shown without them.
PATHS = ", ".join(f"'$.{key}'" for key in SETTINGS)
QUERY = f"SELECT {COLUMNS}, CASE WHEN json_valid(config) THEN json_extract(config, {PATHS}) END AS settings FROM runs"


@dataclass(frozen=True, kw_only=True)
class IndexedRun:
    """A run as the lists show it.

    Attributes:
        row: Its place in the table; later runs have higher ones.
        status: That of the results, of whichever kind; `interrupted` where the process of a running one has ended.
        stored_status: That of the results.
        finished: UTC, ISO 8601; None until it has ended.
        command: That made it.
        process: Host, process id and start time of the process that is or was at it.
        heartbeat: Seconds since the epoch.
        startup: Seconds from its start to the first round; None before.
        rounds: The most that it is to have; None where that cannot be read.
        budget: Gradient evaluations after which it ends; None without that limit.
        actors: That there are for it and the runs beside it; None where that is not known, as on another machine.
        alike: What runs share that can be compared, in words: the dataset, its examples, the length.
    """

    row: int
    id: str
    method: str
    status: str
    stored_status: str
    error: str | None
    started: str
    finished: str | None
    seed: int
    dataset: str
    clients: int
    command: str
    process: tuple[str, int, str]
    heartbeat: float | None
    startup: float | None
    rounds: int | None
    budget: int | None
    actors: int | None
    alike: str

    @property
    def is_running(self) -> bool:
        """Whether a process is at it."""
        return self.status == "running"

    @property
    def has_ended(self) -> bool:
        """Whether nobody will go on with it by itself: one that was interrupted has not ended."""
        return self.status not in ("running", "interrupted")


class RunIndex:
    """The runs of a folder; `refresh` reads what is new.

    Args:
        folder: Of the results.
        cores: Of this machine, for runs that have an actor on each.

    Attributes:
        path: The results file, which may be missing.
        runs: By id, oldest first.
        version: Grows with every change of what is known.
        problem: Why there is nothing to read, in a sentence; empty where there is.
    """

    def __init__(self, folder: Path, cores: int) -> None:
        self.path = folder / DATABASE_NAME
        self._cores = cores
        self.runs: dict[str, IndexedRun] = {}
        self.version = 0
        self.problem = ""
        self._file: tuple[int, int] | None = None
        self._last_run = self._last_round = 0
        self._resynced = 0.0

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """A connection that cannot write, inside a transaction, so that the queries of the block agree.

        Raises:
            ConfigError: There is no file, or it cannot be read.
        """
        connection = open_read_only(self.path)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()

    def refresh(self) -> None:
        """Read what has been added and changed; a file that is missing, replaced or shorter is read anew."""
        try:
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) != self._file:
                self._forget()
                self._file = found.st_dev, found.st_ino
            with self.connected() as connection:
                self._read(connection)
            self._tell("")
        except FileNotFoundError:
            self._forget()
            self._tell(f"{self.path} is not there yet: the page fills when the first run starts")
        except (ConfigError, sqlite3.Error, OSError) as error:
            self._tell(str(error))

    def _tell(self, problem: str) -> None:
        self.version += problem != self.problem
        self.problem = problem

    def _forget(self) -> None:
        self.version += bool(self.runs)
        self.runs, self._file, self._last_run, self._last_round, self._resynced = {}, None, 0, 0, 0.0

    def _read(self, connection: sqlite3.Connection) -> None:
        (number,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        last_run, last_round = (connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0 for table in ("runs", "rounds"))
        new = [self._entry(row) for row in connection.execute(f"{QUERY} WHERE rowid > ? ORDER BY rowid", (self._last_run,))]
        if len(self.runs) + len(new) != number or last_round < self._last_round:  # some were deleted
            new = [self._entry(row) for row in connection.execute(f"{QUERY} ORDER BY rowid")]
            self.runs, self._last_round = {}, 0
            self.version += 1
        # A round that is evaluated again after a resume may have the place of the one before, so the last place is read again.
        since = self._last_round or last_round
        wrote = {run for (run,) in connection.execute("SELECT run FROM rounds WHERE rowid >= ?", (since,))}
        self.version += last_round != self._last_round
        self._add(new)
        stale = {run.id for run in self.runs.values() if run.stored_status == "running"} | (wrote & self.runs.keys())
        if time.monotonic() - self._resynced > RESYNC_SECONDS:
            found = connection.execute("SELECT id, status FROM runs")
            stale |= {run for run, status in found if run in self.runs and status != self.runs[run].stored_status}
            self._resynced = time.monotonic()
        self._add(self._entry(row) for row in select(connection, f"{QUERY} WHERE id IN", sorted(stale - {run.id for run in new})))
        self._last_run, self._last_round = last_run, last_round

    def _add(self, entries: Iterable[IndexedRun]) -> None:
        for entry in entries:
            before = self.runs.get(entry.id)
            self.version += before is None or _shown(before) != _shown(entry)
            self.runs[entry.id] = entry

    def _entry(self, row: sqlite3.Row) -> IndexedRun:
        settings = dict(zip(SETTINGS, json.loads(row["settings"] or "null") or [None] * len(SETTINGS), strict=True))
        process = row["host"], row["pid"], row["born"]
        ended = row["status"] == "running" and process_ended(*process, row["heartbeat"])
        examples, budget, rounds = (settings[key] for key in ("data.examples", "budget", "rounds"))
        parts = [settings[key] for key in SETTINGS[-3:]]
        method = row["name"] or settings["method"] or " x ".join(part for part in parts if part and part != "none")
        return IndexedRun(
            row=row["rowid"],
            method=printable(method),
            status="interrupted" if ended else printable(row["status"]),
            stored_status=row["status"],
            process=process,
            rounds=rounds,
            budget=budget,
            actors=self._actors(settings, row["host"]),
            alike=comparable_text(row["dataset"], examples, budget, rounds),
            **{name: row[name] for name in SAME},
        )

    def _actors(self, settings: Mapping[str, Any], host: str) -> int | None:
        if settings["compute.grid"] == "inline":
            return 1
        elsewhere = settings["compute.gpus_per_actor"] or settings["compute.ray_address"] or host != platform.node()
        default = None if elsewhere else self._cores // (settings["compute.cpus_per_actor"] or 1)
        return settings["compute.actors"] or default


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a results file so that nothing can be written, also where its folder may only be read. Raises as `connect`."""
    try:
        return connect(path, "mode=ro")
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
        return connect(path, "immutable=1")  # SQLite cannot make its files beside one that is not being written


def select(connection: sqlite3.Connection, query: str, ids: Sequence[str], end: str = "") -> Iterator[sqlite3.Row]:
    """The rows of a query that ends with `IN`, for any number of ids, and goes on with `end`."""
    for first in range(0, len(ids), AT_ONCE):
        some = ids[first : first + AT_ONCE]
        yield from connection.execute(f"{query} ({', '.join('?' * len(some))}) {end}", some)


def _shown(run: IndexedRun) -> tuple[Any, ...]:
    return run.status, run.stored_status, run.error, run.finished, run.startup, run.process
