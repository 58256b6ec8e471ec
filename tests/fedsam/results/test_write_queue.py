"""Writes that wait in memory: for another process to be done with the file, and for space."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest

from fedsam.results import database, write_queue
from fedsam.results.ownership import RunTakenError
from fedsam.results.store import Results
from fedsam.results.write_queue import StorageError
from tests.fedsam.results.test_store import row, start


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATIENCE_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(write_queue, name, 0.02)


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


@pytest.fixture
def other(results: Results) -> Iterator[sqlite3.Connection]:
    """A connection that can hold the file."""
    with closing(sqlite3.connect(results.path, isolation_level=None, check_same_thread=False)) as other:
        yield other


def test_rounds_wait_in_memory_while_another_holds_the_file_and_are_all_written(results: Results, other: sqlite3.Connection) -> None:
    run, said = start(results), list[str]()
    results.queue_writes(said.append)
    results.append_round(row(run, 1))
    other.execute("BEGIN IMMEDIATE")
    for round in (2, 3, 4):
        results.append_round(row(run, round))
    assert [one.round for one in results.rounds(run)] == [1]
    (told,) = said
    assert told.startswith(f"{results.path} is locked") and "rounds wait in memory and training goes on" in told
    other.execute("ROLLBACK")
    results.append_round(row(run, 5))
    assert results.rounds(run) == [row(run, round) for round in range(1, 6)]
    assert said[1:] == [f"{results.path} can be written again: all rounds are in it"]


def test_the_end_of_a_run_waits_for_the_file(results: Results, other: sqlite3.Connection) -> None:
    run, said = start(results), list[str]()
    results.queue_writes(said.append)
    other.execute("BEGIN IMMEDIATE")
    results.append_round(row(run, 1))
    release = Timer(0.2, other.execute, ["ROLLBACK"])
    release.start()
    results.finish_run(run, "finished")
    release.join()
    assert [one.status for one in results.runs()] == ["finished"]
    assert results.rounds(run) == [row(run, 1)]
    assert ["the end of the run waits for it" in text for text in said] == [False, True, False]


def test_it_does_not_wait_for_ever_and_only_once(results: Results, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "LOCKED_SECONDS", 0.1)
    run = start(results)
    results.append_round(row(run, 1))
    results.queue_writes(lambda _: None)
    other.execute("BEGIN IMMEDIATE")
    results.append_round(row(run, 2))
    with pytest.raises(StorageError, match=rf"{results.path} is locked, by .*: 2 writes of the run were not made within 0\.1 s"):
        results.finish_run(run, "finished")
    monkeypatch.setattr(write_queue, "LOCKED_SECONDS", 1e9)
    with pytest.raises(StorageError):
        results.finish_run(run, "failed", "locked")
    assert results.rounds(run) == [row(run, 1)]


def test_rounds_wait_for_space(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = start(results), list[str]()
    results.queue_writes(said.append)

    def limit(pages: int) -> None:
        results._connection.execute(f"PRAGMA max_page_count = {pages}")

    limit(results._connection.execute("PRAGMA page_count").fetchone()[0])
    measures = {f"m{number}": 1.0 for number in range(1000)}
    for round in (1, 2):
        results.append_round(row(run, round, measures=measures))
    assert results.rounds(run) == []
    (told,) = said
    assert told.startswith(f"{results.path} cannot be written (database or disk is full; is the disk full?): rounds wait in memory")
    monkeypatch.setattr(write_queue, "FULL_SECONDS", 0.05)
    with pytest.raises(StorageError, match="database or disk is full"):
        results.finish_run(run, "finished")
    limit(10_000)
    with pytest.raises(RunTakenError):  # it ends as was said first
        results.finish_run(run, "failed")
    assert results.find_one(run).status == "finished"
    assert results.rounds(run) == [row(run, round, measures=measures) for round in (1, 2)]


def test_what_can_never_be_written_waits_for_nothing(results: Results) -> None:
    run = start(results)
    results.queue_writes(lambda text: pytest.fail(text))
    results.append_round(row(run, 1))
    with pytest.raises(ValueError, match="round 1: cannot be added"):
        results.append_round(row(run, 1))
    results.append_round(row(run, 2))
    results.finish_run(run, "finished")
    assert len(results.rounds(run)) == 2


def test_who_has_the_file_open_is_named(results: Results) -> None:
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM runs'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(results.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as held:
        assert held.stdout is not None and held.stdout.readline() == "\n"
        assert f"by process {held.pid} (" in write_queue.held_by(results.path)
        held.communicate("\n")
    assert write_queue.held_by(results.path) == ", by a process of another user or machine or by a thread of this one"


class Interrupted:
    """A connection on which Ctrl-C arrives once, while a statement that begins with these words is made."""

    def __init__(self, connection: sqlite3.Connection, statement: str) -> None:
        self._connection, self._statement = connection, statement

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        done = self._connection.execute(statement, *values)
        if self._statement and statement.startswith(self._statement):
            self._statement = ""
            raise KeyboardInterrupt
        return done


@pytest.mark.parametrize(("statement", "kept"), [("PRAGMA", []), ("BEGIN", []), ("INSERT", []), ("COMMIT", [1])])
def test_an_interrupt_leaves_a_write_made_or_waiting(
    results: Results, monkeypatch: pytest.MonkeyPatch, statement: str, kept: list[int]
) -> None:
    run = start(results)
    results.queue_writes(lambda _: None)
    assert results._queue is not None
    monkeypatch.setattr(results._queue, "_connection", Interrupted(results._queue._connection, statement))
    with pytest.raises(KeyboardInterrupt):
        results.append_round(row(run, 1))
    assert [one.round for one in results.rounds(run)] == kept
    results.finish_run(run, "interrupted")
    assert results.rounds(run) == [row(run, 1)]
    assert [one.status for one in results.runs()] == ["interrupted"]


def test_an_interrupt_as_a_transaction_begins_ends_it(results: Results) -> None:
    connection = Interrupted(sqlite3.connect(results.path, isolation_level=None), "BEGIN")
    with pytest.raises(KeyboardInterrupt), database.transaction(connection):  # type: ignore[arg-type]
        pass
    assert not connection.in_transaction
