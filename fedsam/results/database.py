"""The SQLite file of the results: tables, creation, migration, connections, transactions, and which processes have it open."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from fedsam.wording import ConfigError

DATABASE_NAME = "fedsam.db"
APPLICATION_ID = 0x66536D31  # `PRAGMA application_id` of our files
SCHEMA_VERSION = 6  # of the tables below; `PRAGMA user_version`
BUSY_SECONDS = 60.0
TABLES = (
    """CREATE TABLE runs (
        id TEXT PRIMARY KEY, name TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('running', 'finished', 'failed', 'interrupted', 'diverged', 'pruned')),
        error TEXT, started TEXT NOT NULL, finished TEXT, config TEXT NOT NULL, config_hash TEXT NOT NULL, seed INTEGER NOT NULL,
        dataset TEXT NOT NULL, dataset_wanted TEXT NOT NULL, clients INTEGER NOT NULL, classes INTEGER NOT NULL,
        git_commit TEXT NOT NULL, versions TEXT NOT NULL, device TEXT NOT NULL, command TEXT NOT NULL,
        host TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL, startup REAL, heartbeat REAL, other_cpu REAL)""",
    """CREATE TABLE rounds (
        run TEXT NOT NULL REFERENCES runs (id), round INTEGER NOT NULL, cohort INTEGER NOT NULL, failures INTEGER NOT NULL,
        examples INTEGER NOT NULL, steps INTEGER NOT NULL, gradient_evaluations INTEGER NOT NULL, forward_evaluations INTEGER NOT NULL,
        bytes_down INTEGER NOT NULL, bytes_up INTEGER NOT NULL, flops INTEGER NOT NULL, client_seconds REAL NOT NULL,
        wall_seconds REAL NOT NULL, evaluate_seconds REAL NOT NULL, simulated_seconds REAL, energy REAL,
        peak_rss INTEGER NOT NULL, peak_device_memory INTEGER, train_loss REAL,
        PRIMARY KEY (run, round))""",
    """CREATE TABLE measures (
        run TEXT NOT NULL, round INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
        PRIMARY KEY (run, round, name), FOREIGN KEY (run, round) REFERENCES rounds (run, round)) WITHOUT ROWID""",
    """CREATE TABLE clients (
        run TEXT NOT NULL, round INTEGER NOT NULL, client INTEGER NOT NULL, examples INTEGER NOT NULL, steps INTEGER NOT NULL,
        train_loss REAL, seconds REAL NOT NULL, status TEXT NOT NULL,
        PRIMARY KEY (run, round, client), FOREIGN KEY (run, round) REFERENCES rounds (run, round)) WITHOUT ROWID""",
    """CREATE TABLE slices (
        run TEXT NOT NULL, round INTEGER NOT NULL, name TEXT NOT NULL, i INTEGER NOT NULL, j INTEGER NOT NULL,
        alpha REAL NOT NULL, beta REAL NOT NULL, loss REAL,
        PRIMARY KEY (run, round, name, i, j), FOREIGN KEY (run, round) REFERENCES rounds (run, round)) WITHOUT ROWID""",
    """CREATE TABLE holdings (
        run TEXT NOT NULL REFERENCES runs (id), client INTEGER NOT NULL, class INTEGER NOT NULL, examples INTEGER NOT NULL,
        PRIMARY KEY (run, client, class)) WITHOUT ROWID""",
    """CREATE TABLE classes (
        run TEXT NOT NULL REFERENCES runs (id), class INTEGER NOT NULL, name TEXT NOT NULL,
        PRIMARY KEY (run, class)) WITHOUT ROWID""",
    """CREATE TABLE tags (
        run TEXT NOT NULL REFERENCES runs (id), tag TEXT NOT NULL,
        PRIMARY KEY (run, tag)) WITHOUT ROWID""",
    "CREATE TABLE studies (id TEXT PRIMARY KEY, label TEXT NOT NULL, settings TEXT NOT NULL)",  # settings and parameters are JSON
    """CREATE TABLE trials (
        study TEXT NOT NULL REFERENCES studies (id), number INTEGER NOT NULL, run TEXT NOT NULL REFERENCES runs (id),
        parameters TEXT NOT NULL, value REAL, pruned INTEGER NOT NULL,
        PRIMARY KEY (study, number, run)) WITHOUT ROWID""",
    """CREATE TABLE tuned (
        run TEXT NOT NULL REFERENCES runs (id), study TEXT NOT NULL REFERENCES studies (id),
        PRIMARY KEY (run, study)) WITHOUT ROWID""",
)
STATEMENTS = {re.findall(r"TABLE (\w+)", statement)[0]: statement for statement in TABLES}  # by table
RUN_COLUMNS = (  # since version 4
    "id, name, status, error, started, finished, config, config_hash, seed, dataset, dataset_wanted, clients, classes, "
    "git_commit, versions, device, command, host, pid, born, startup, heartbeat, other_cpu"
)
REBUILD_RUNS = (  # SQLite changes a CHECK in no other way; foreign keys are not enforced on the connection that migrates
    STATEMENTS["runs"].replace("runs", "new_runs", 1),
    f"INSERT INTO new_runs (rowid, {RUN_COLUMNS}) SELECT rowid, {RUN_COLUMNS} FROM runs",
    "DROP TABLE runs",
    "ALTER TABLE new_runs RENAME TO runs",
)
OF_VERSION_6 = tuple(STATEMENTS[name] for name in ("studies", "trials", "tuned"))
MIGRATIONS = {
    2: (STATEMENTS["classes"],),
    3: (*(f"ALTER TABLE runs ADD COLUMN {name} REAL" for name in ("heartbeat", "other_cpu")), STATEMENTS["tags"]),
    4: REBUILD_RUNS,
    5: (*REBUILD_RUNS, *OF_VERSION_6),
}  # from each version to the next
COLUMNS = {name: re.findall(r"(\w+) (?:TEXT|INTEGER|REAL)\b", statement) for name, statement in STATEMENTS.items()}  # by table
READABLE = (4, 5, SCHEMA_VERSION)  # versions that are read as they are where a file cannot be migrated


class DamagedError(ConfigError):
    """The file, or what it should hold, cannot be read."""

    def __init__(self, path: Path, what: object) -> None:
        super().__init__(f"runs_dir: {path} is damaged: {what}; `fedsam doctor --runs-dir {path.parent}` says more and what to do")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether an error says that another connection holds the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)  # their extended codes too


def connect(path: Path, read_only: str = "") -> sqlite3.Connection:
    """Open the file.

    Args:
        read_only: Parameters of SQLite's URI with which to open it for reading alone.

    Raises:
        ConfigError: Another program wrote it, or its version is not supported.
        DamagedError: It is damaged, as far as that shows at once.
    """
    name = f"{path.absolute().as_uri()}?{read_only}" if read_only else str(path)
    connection = sqlite3.connect(name, uri=bool(read_only), timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _check(connection, path, migrate=not read_only)
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError) and getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_ERROR:
            raise  # it cannot be opened or written, or another connection holds it
        raise DamagedError(path, error) from None
    except BaseException:
        connection.close()
        raise
    if not read_only:
        with suppress(sqlite3.OperationalError):  # SQLite does not wait here: while others are in a new file, the next to open it does this
            connection.execute("PRAGMA journal_mode = WAL")
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a file that exists, also where it and its folder may only be read.

    Raises:
        ConfigError: It is missing, or cannot be read, or another process holds it; and as `connect`.
    """
    folder = path.parent
    try:
        if not path.is_file() or not path.stat().st_size:
            raise ConfigError(f"runs_dir: '{folder}' is not allowed: it holds no {DATABASE_NAME}; runs write one there")
        for read_only in ("", "mode=ro"):
            try:
                return connect(path, read_only)
            except sqlite3.OperationalError as error:
                if is_busy(error):  # it can be read, later: not as one that nobody writes
                    raise ConfigError(f"runs_dir: {path} is locked{held_by(path)}; try again when it is free") from None
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:  # what SQLite cannot read without writing
            raise ConfigError(f"runs_dir: '{folder}' is not allowed: its newest rounds are in {log.name}; copy it to where you may write")
        return connect(path, "immutable=1")
    except (OSError, sqlite3.OperationalError) as error:
        raise ConfigError(f"runs_dir: '{folder}' is not allowed: must be a folder that can be read ({error})") from None


def _check(connection: sqlite3.Connection, path: Path, *, migrate: bool) -> None:
    try:
        application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise ConfigError(f"runs_dir: {path} is not allowed: it is no SQLite file, or its first bytes are damaged ({error})") from None
    if application != APPLICATION_ID:
        raise ConfigError(f"runs_dir: {path} is not allowed: another program wrote this SQLite file")
    while migrate and version in MIGRATIONS:
        version = _migrate(connection, version)
    if version in MIGRATIONS and version not in READABLE:
        raise ConfigError(
            f"runs_dir: {path} is not allowed: its tables have version {version} of an older fedsam; copy it to where you may write"
        )
    if version not in READABLE:
        raise ConfigError(
            f"runs_dir: {path} is not allowed: its tables have version {version}, and this fedsam reads version {SCHEMA_VERSION}"
        )
    for statement in OF_VERSION_6 if version < 6 else ():  # a file that may only be read: its connection has them, empty
        connection.execute(statement.replace("CREATE", "CREATE TEMP", 1))
    _check_tables(connection, path)


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `DamagedError` where a table or column is not there."""
    for table, columns in COLUMNS.items():
        there = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
        if not there:
            raise DamagedError(path, f"its table {table} is not there")
        if lost := [name for name in columns if name not in there]:
            raise DamagedError(path, f"its table {table} has no column {lost[0]}")


def _migrate(connection: sqlite3.Connection, version: int) -> int:
    """Migrate the tables to the next version, unless another process has done so; returns their version."""
    with transaction(connection):
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != version:
            return found
        for statement in MIGRATIONS[version]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version + 1}")
    return version + 1


def create_database(path: Path) -> None:
    """Create the tables in a file that is missing or empty; of processes that do so at the same time, one does.

    A file that stays empty, because there is no space for the tables, is removed.
    """
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection, transaction(connection):
            if connection.execute("PRAGMA schema_version").fetchone()[0]:
                return  # another process was faster
            for statement in (*TABLES, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA_VERSION}"):
                connection.execute(statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY and path.is_file() and not path.stat().st_size:
            path.unlink()
        raise


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A transaction around the block: all of its writes are committed, or none."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # else SQLite has rolled it back, as where the disk is full
            connection.execute("ROLLBACK")
        raise


def insert_statement(table: str, columns: Mapping[str, object] | Sequence[str]) -> str:
    """The SQL statement that inserts a row, with values given by column name."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})"


def held_by(path: Path) -> str:
    """Who may hold a results file, to go on a sentence with: other processes of this machine and user that have it open.

    Where none is found, or there is no /proc, it is said what else it may be.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*") if path.exists() else ():
        if int(folder.name) != os.getpid():
            with suppress(OSError):  # it has ended, or is another user's
                if any(_is_of(entry, path) for entry in (folder / "fd").iterdir()):
                    found.append(f"process {folder.name} ({(folder / 'comm').read_text().strip()})")
    if found:
        return f" by {', '.join(found[:3])}"
    return ", by a process of another user or machine or by a thread of this one"


def _is_of(entry: Path, path: Path) -> bool:
    """Whether a file descriptor is of the file, its log or its shared memory."""
    with suppress(OSError):
        return entry.readlink().as_posix() in (f"{path.resolve()}{suffix}" for suffix in ("", "-wal", "-shm", "-journal"))
    return False
