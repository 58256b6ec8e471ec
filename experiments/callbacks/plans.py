"""The plans of commands that make several runs, kept in the results so that others can tell how far such a command is.

The tables are added to a file when the first plan is written; a file without them holds no plan, and every version of fedsam reads either.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedsam.results.database import connect, insert_statement, transaction
from fedsam.results.ownership import own_process

TABLES = (
    """CREATE TABLE IF NOT EXISTS plans (
        id INTEGER PRIMARY KEY, started REAL NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS planned_runs (
        plan INTEGER NOT NULL REFERENCES plans (id), number INTEGER NOT NULL, work REAL NOT NULL, rounds INTEGER NOT NULL,
        run TEXT, rounds_before INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (plan, number)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS planned_runs_by_run ON planned_runs (run)",
)

PATIENCE_SECONDS = 2.0  # of a write for a file that another process is writing: the run waits meanwhile


@dataclass(frozen=True, kw_only=True)
class PlannedWork:
    """A run of a plan.

    Attributes:
        work: Estimated seconds of each run of the plan, or else its rounds: only ratios have a meaning.
        rounds: The most that it has.
        run: Its id; None until it has started.
        rounds_before: Rounds that it had before the command of the plan went on with it.
        skipped: Whether it is not made: another process has made it or is at it, or it could not be started.
    """

    work: float
    rounds: int
    run: str | None = None
    rounds_before: int = 0
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a command set out to do.

    Attributes:
        id: Later plans have higher ones.
        started: Seconds since the epoch when its first run started.
        host: Name of the machine of its process.
        pid: Of its process.
        born: Start time of its process, as of `process_start_time`.
        runs: In order.
    """

    id: int
    started: float
    host: str
    pid: int
    born: str
    runs: tuple[PlannedWork, ...]


def add_plan(database: Path, runs: Sequence[PlannedWork]) -> int:
    """Add a plan of this process and return its id. Raises `sqlite3.Error` or `ConfigError` where the file cannot be written."""
    with closing(_patient(database)) as connection, transaction(connection):
        for statement in TABLES:
            connection.execute(statement)
        columns = {"started": time.time(), **own_process()}
        plan = connection.execute(insert_statement("plans", columns), columns).lastrowid
        rows = [(plan, number, one.work, one.rounds, one.run, one.rounds_before, one.skipped) for number, one in enumerate(runs)]
        connection.executemany("INSERT INTO planned_runs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return int(plan or 0)


def update_planned_run(database: Path, plan: int, number: int, now: PlannedWork) -> None:
    """Note how it stands with the run of this number, from 0, of a plan. Raises as `add_plan`."""
    with closing(_patient(database)) as connection:
        connection.execute(
            "UPDATE planned_runs SET run = ?, rounds_before = ?, skipped = ? WHERE plan = ? AND number = ?",
            (now.run, now.rounds_before, now.skipped, plan, number),
        )


def plan_of(connection: sqlite3.Connection, run: str) -> RunPlan | None:
    """The latest plan that a run is part of; None where there is none."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'planned_runs_by_run'").fetchone():
        return None
    found = connection.execute(
        "SELECT * FROM plans WHERE id = (SELECT max(plan) FROM planned_runs WHERE run = ?)",
        (run,),
    ).fetchone()
    if found is None:
        return None
    rows = connection.execute("SELECT * FROM planned_runs WHERE plan = ? ORDER BY number", (found["id"],))
    runs = [
        PlannedWork(
            work=row["work"], rounds=row["rounds"], run=row["run"], rounds_before=row["rounds_before"], skipped=bool(row["skipped"])
        )
        for row in rows
    ]
    return RunPlan(**dict(found), runs=tuple(runs))


def _patient(database: Path) -> sqlite3.Connection:
    connection = connect(database)
    connection.execute(f"PRAGMA busy_timeout = {int(1000 * PATIENCE_SECONDS)}")
    return connection
