"""What runs leave behind: one append-only SQLite file, `<runs_dir>/fedsam.db`, with every run, round, client and measure.

Each round is one transaction, so a killed run keeps what it had; several processes may write at once (write-ahead log).

SQLite has no NaN and stores it as NULL. Here a NULL `measures.value` or `train_loss` therefore means "measured, and not a number" and
is read back as NaN, so that a diverged run stays readable; what was not measured has no row at all. Only in `peak_device_memory` does
NULL mean "none".
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fedsam.config import ConfigError, Experiment

FILE = "fedsam.db"
APPLICATION = 0x66536D31  # marks the file as ours; `PRAGMA application_id`
VERSION = 1  # of the tables below; `PRAGMA user_version`
BUSY_SECONDS = 60.0
PACKAGES = ("fedsam", "torch", "torchvision", "flwr", "ray", "numpy")

TABLES = (
    """CREATE TABLE runs (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL CHECK (status IN ('running', 'finished', 'failed', 'interrupted')),
        error TEXT, started TEXT NOT NULL, finished TEXT, config TEXT NOT NULL, config_hash TEXT NOT NULL, seed INTEGER NOT NULL,
        dataset TEXT NOT NULL, dataset_wanted TEXT NOT NULL, clients INTEGER NOT NULL, classes INTEGER NOT NULL,
        git_commit TEXT NOT NULL, versions TEXT NOT NULL, device TEXT NOT NULL, command TEXT NOT NULL,
        host TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL)""",
    """CREATE TABLE rounds (
        run TEXT NOT NULL REFERENCES runs (id), round INTEGER NOT NULL, cohort INTEGER NOT NULL, failures INTEGER NOT NULL,
        examples INTEGER NOT NULL, steps INTEGER NOT NULL, gradient_evaluations INTEGER NOT NULL, forward_evaluations INTEGER NOT NULL,
        bytes_down INTEGER NOT NULL, bytes_up INTEGER NOT NULL, client_seconds REAL NOT NULL, wall_seconds REAL NOT NULL,
        evaluate_seconds REAL NOT NULL, peak_rss INTEGER NOT NULL, peak_device_memory INTEGER, train_loss REAL,
        PRIMARY KEY (run, round))""",
    """CREATE TABLE measures (
        run TEXT NOT NULL, round INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
        PRIMARY KEY (run, round, name), FOREIGN KEY (run, round) REFERENCES rounds (run, round)) WITHOUT ROWID""",
    """CREATE TABLE clients (
        run TEXT NOT NULL, round INTEGER NOT NULL, client INTEGER NOT NULL, examples INTEGER NOT NULL, steps INTEGER NOT NULL,
        train_loss REAL, seconds REAL NOT NULL, status TEXT NOT NULL,
        PRIMARY KEY (run, round, client), FOREIGN KEY (run, round) REFERENCES rounds (run, round)) WITHOUT ROWID""",
    """CREATE TABLE holdings (
        run TEXT NOT NULL REFERENCES runs (id), client INTEGER NOT NULL, class INTEGER NOT NULL, examples INTEGER NOT NULL,
        PRIMARY KEY (run, client, class)) WITHOUT ROWID""",
)

Status = Literal["running", "finished", "failed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class ClientRow:
    """What one client did in one round.

    Attributes:
        examples: It trained on, each local epoch counted.
        train_loss: Mean over its local steps; NaN when it diverged or failed.
        seconds: Of local training.
        status: `ok`, or what went wrong.
    """

    client: int
    examples: int
    steps: int
    train_loss: float
    seconds: float
    status: str = "ok"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one round gave and cost; `cumulative` adds costs up.

    Attributes:
        cohort: Clients that trained.
        failures: Clients that did not.
        gradient_evaluations: Examples passed forward and backward.
        forward_evaluations: Examples passed forward only, evaluation left out.
        bytes_down: From the server to the cohort.
        bytes_up: From the cohort to the server.
        client_seconds: Sum over clients of local training.
        wall_seconds: Of the training part of the round.
        evaluate_seconds: Of the evaluation after it; 0 when there was none.
        peak_rss: Bytes, the largest process.
        peak_device_memory: Bytes, the largest actor; None without a GPU.
        train_loss: Mean over the cohort, weighted by examples; may be NaN.
        measures: What was evaluated: `test_accuracy` (a fraction), `test_loss`, ...; empty when nothing was.
    """

    run: str
    round: int
    cohort: int
    failures: int = 0
    examples: int
    steps: int
    gradient_evaluations: int
    forward_evaluations: int
    bytes_down: int
    bytes_up: int
    client_seconds: float
    wall_seconds: float
    evaluate_seconds: float
    peak_rss: int
    peak_device_memory: int | None = None
    train_loss: float
    measures: Mapping[str, float] = field(default_factory=dict)
    clients: Sequence[ClientRow] = ()


ROUND_COLUMNS = tuple(f.name for f in fields(Row) if f.name not in ("measures", "clients"))
CLIENT_COLUMNS = tuple(f.name for f in fields(ClientRow))
PEAKS = ("peak_rss", "peak_device_memory")
TOTALS = tuple(name for name in ROUND_COLUMNS if name not in ("run", "round", "train_loss", *PEAKS))


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which code ran where: enough, with the config and the seed, to run it again."""

    versions: Mapping[str, str]
    git_commit: str
    device: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Run(Provenance):
    """One line of the table of runs.

    Attributes:
        status: `interrupted` also when the process that wrote it is gone without a word.
        started: UTC, ISO 8601; so is `finished`.
        config: Every setting, defaults filled in.
        config_hash: Equal for runs that differ only in seed and in where files lie.
        dataset: The one really used.
        dataset_wanted: The one that the experiment asked for.
    """

    id: str
    name: str
    status: Status
    error: str | None
    started: str
    finished: str | None
    config: Mapping[str, Any]
    config_hash: str
    seed: int
    dataset: str
    dataset_wanted: str
    clients: int
    classes: int


class Results:
    """The results file, open; a context manager that closes it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def open(cls, runs_dir: Path, *, create: bool = True) -> Self:
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
                _create(path)
            connection = _connect(path)
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
        holdings: NDArray[np.integer[Any]],
        provenance: Provenance,
    ) -> str:
        """Begin a run of this process and give its id.

        Args:
            resolved: Every setting with the defaults of its parts, as plain values.
            dataset: The one really used, which may be the fallback.
            holdings: Examples of each class that each client holds, (clients, classes).
        """
        config, now = json.dumps(resolved, default=str, sort_keys=True), datetime.now(UTC)
        pid = os.getpid()
        columns = {
            "id": f"{now:%Y%m%d-%H%M%S}-{_digest(f'{now.isoformat()} {platform.node()} {pid} {config}')[:6]}",
            "name": experiment.name,
            "status": "running",
            "started": now.isoformat(timespec="seconds"),
            "config": config,
            "config_hash": config_hash(resolved),
            "seed": experiment.seed,
            "dataset": dataset,
            "dataset_wanted": experiment.data.dataset,
            "clients": holdings.shape[0],
            "classes": holdings.shape[1],
            "git_commit": provenance.git_commit,
            "versions": json.dumps(dict(provenance.versions)),
            "device": provenance.device,
            "command": provenance.command,
            "host": platform.node(),
            "pid": pid,
            "born": _born(pid),
        }
        held = [(columns["id"], int(client), int(kind), int(holdings[client, kind])) for client, kind in np.argwhere(holdings)]
        with _transaction(self._connection) as connection:
            connection.execute(_insert("runs", columns), columns)
            connection.executemany("INSERT INTO holdings VALUES (?, ?, ?, ?)", held)
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
            with _transaction(self._connection) as connection:
                connection.execute(_insert("rounds", columns), columns)
                connection.executemany("INSERT INTO measures VALUES (?, ?, ?, ?)", measures)
                connection.executemany(_insert("clients", ("run", "round", *CLIENT_COLUMNS)), clients)
        except sqlite3.IntegrityError as error:
            raise ValueError(f"run {row.run!r}, round {row.round}: cannot be added ({error})") from None

    def finish(self, run: str, status: Status, error: str | None = None) -> None:
        """Close a run with its status and, when it failed, why."""
        with _transaction(self._connection) as connection:
            values = (status, error, datetime.now(UTC).isoformat(timespec="seconds"), run)
            if connection.execute("UPDATE runs SET status = ?, error = ?, finished = ? WHERE id = ?", values).rowcount != 1:
                raise ValueError(f"run {run!r} was never started")

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

    def holdings(self, run: str) -> NDArray[np.int64]:
        """Examples of each class that each client of a run holds, (clients, classes)."""
        shape = self._connection.execute("SELECT clients, classes FROM runs WHERE id = ?", (run,)).fetchone()
        counts = np.zeros(tuple(shape), dtype=np.int64)
        held = [tuple(entry) for entry in self._connection.execute("SELECT client, class, examples FROM holdings WHERE run = ?", (run,))]
        if held:
            client, kind, examples = np.array(held).T
            counts[client, kind] = examples
        return counts

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


def cumulative(rows: Sequence[Row]) -> list[Row]:
    """The rows with each cost replaced by its total so far, and each peak by the highest so far."""
    return list(itertools.accumulate(rows, _add))


def _add(before: Row, row: Row) -> Row:
    totals: dict[str, Any] = {name: getattr(before, name) + getattr(row, name) for name in TOTALS}
    peaks: dict[str, Any] = {
        name: max((p for p in (getattr(before, name), getattr(row, name)) if p is not None), default=None) for name in PEAKS
    }
    return replace(row, **totals, **peaks)


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits, equal for settings that differ only in the seed and in where files lie."""
    kept = {key: value for key, value in config.items() if key not in ("seed", "runs_dir")}
    kept["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    return _digest(json.dumps(kept, default=str, sort_keys=True))[:12]


def provenance(*, gpu: bool = False) -> Provenance:
    """Which code this process runs, on what device, by which command.

    Args:
        gpu: Name the GPUs of this machine, instead of its CPU.
    """
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    # A console script is quoted as a person types it; anything else exactly as the interpreter got it.
    script = Path(sys.argv[0]).name
    words = [script, *sys.argv[1:]] if script == "fedsam" else sys.orig_argv
    return Provenance(
        versions=versions, git_commit=_git_commit(Path(__file__)), device=_gpus() if gpu else _cpu(), command=shlex.join(words)
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_commit(file: Path) -> str:
    """The commit of the checkout that tracks `file`, with `-dirty` when tracked files differ from it; else `unknown`."""
    git = ["git", "--no-optional-locks", "-C", str(file.parent)]
    asked = {"check": True, "capture_output": True, "text": True, "timeout": 10}
    try:
        # An installed copy may lie inside somebody else's checkout, in a virtual environment: then its commit is not ours.
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], **asked)  # type: ignore[call-overload]
        described = subprocess.run([*git, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"], **asked)  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return str(described.stdout).strip()


def _cpu() -> str:
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} CPUs"


def _gpus() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        names = [pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _connect(path: Path) -> sqlite3.Connection:
    """The file, opened, once it is known to be ours."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _check(connection, path)
    except BaseException:
        connection.close()
        raise
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    try:
        application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"runs_dir: {path} is not allowed: it is no SQLite file ({error})") from None
    if application != APPLICATION:
        raise ConfigError(f"runs_dir: {path} is not allowed: another program wrote this SQLite file")
    if version != VERSION:
        raise ConfigError(f"runs_dir: {path} is not allowed: its tables have version {version}, and this fedsam reads version {VERSION}")


def _create(path: Path) -> None:
    """Begin the file. It appears complete or not at all, so processes that begin it at the same time cannot meet half of it."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fedsam-") as folder:
        begun = Path(folder) / FILE
        connection = sqlite3.connect(begun, isolation_level=None)
        try:
            for statement in (
                "PRAGMA journal_mode = WAL",
                *TABLES,
                f"PRAGMA application_id = {APPLICATION}",
                f"PRAGMA user_version = {VERSION}",
            ):
                connection.execute(statement)
        finally:
            connection.close()
        with suppress(FileExistsError):  # another process was faster
            os.link(begun, path)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _insert(table: str, columns: Mapping[str, object] | Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})"


def _run(entry: sqlite3.Row) -> Run:
    values = {f.name: entry[f.name] for f in fields(Run)} | {name: json.loads(entry[name]) for name in ("config", "versions")}
    if values["status"] == "running" and _gone(entry["host"], entry["pid"], entry["born"]):
        values["status"] = "interrupted"
    return Run(**values)


def _gone(host: str, pid: int, born: str) -> bool:
    """Whether the process is known to have ended; of another host nothing is known."""
    if host != platform.node() or os.name != "posix":
        return False
    if born:
        return _born(pid) != born
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _born(pid: int) -> str:
    """When a process started, in clock ticks since boot, as a number can be given again; empty when it is gone or there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
