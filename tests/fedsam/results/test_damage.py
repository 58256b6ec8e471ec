"""A damaged results file: a sentence, and what can be read; never a traceback, and nothing is lost without a word."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedsam.config import ConfigError
from fedsam.results import database
from fedsam.results.database import COLUMNS, DamagedError, open_to_read
from fedsam.results.integrity import problems
from fedsam.results.listing import listed_runs
from fedsam.results.store import Results
from tests.fedsam.results.test_store import row, start

RUNS, ROUNDS = 12, 8


@pytest.fixture
def file(runs_dir: Path) -> Path:
    """A results file of some runs, all of it in one file."""
    with Results.open(runs_dir) as results:
        for _ in range(RUNS):
            run = start(results)
            for round in range(1, ROUNDS + 1):
                results.append_round(row(run, round, measures={"test_loss": 2.0, "test_accuracy": 0.5}))
            results.finish_run(run, "finished")
        results._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return runs_dir / "fedsam.db"


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def listed(file: Path) -> list[str]:
    with Results.open(file.parent, create=False) as results:
        return [one.run.id for one in listed_runs(results)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("config", "'{\"rounds\": 3'"),
        ("config", "'[1, 2]'"),
        ("config", "'{\"rounds\": 3}'"),
        ("config", "CAST(x'ff00fe' AS TEXT)"),
        ("versions", "'no JSON'"),
        ("versions", "x'ffff'"),
        ("seed", "'seven'"),
        ("clients", "x'01'"),
    ],
)
def test_a_damaged_row_hides_itself_alone_and_is_named(file: Path, column: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = listed(file)
    execute(file, f"UPDATE runs SET {column} = {value} WHERE id = '{before[4]}'")
    assert listed(file) == before[:4] + before[5:]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"WARNING: {file}: ") and "is damaged and left out" in said
    assert before[4] in said or "the run in row 5" in said
    assert any("cannot be read" in problem for problem in problems(file))


def test_a_run_whose_rounds_cannot_be_read_hides_itself_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listed(file)
    execute(file, f"UPDATE measures SET name = CAST(x'ff' AS TEXT) WHERE run = '{before[0]}' AND name = 'test_loss' AND round = 1")
    assert listed(file) == before[1:]
    assert f"run {before[0]} is damaged and left out" in capsys.readouterr().err
    with Results.open(file.parent) as results, pytest.raises(DamagedError, match=f"{file} is damaged: .*; `fedsam doctor --runs-dir "):
        results.rounds(before[0])


@pytest.mark.parametrize("table", COLUMNS)
def test_a_table_or_column_that_is_not_there_is_named(file: Path, table: str) -> None:
    last = COLUMNS[table][-1]
    execute(file, f"ALTER TABLE {table} RENAME COLUMN {last} TO other")
    with pytest.raises(DamagedError, match=f"{file} is damaged: its table {table} has no column {last}; `fedsam doctor"):
        Results.open(file.parent)
    execute(file, "PRAGMA foreign_keys = OFF", f"DROP TABLE {table}")
    with pytest.raises(DamagedError, match=f"its table {table} is not there"):
        Results.open(file.parent, create=False)
    assert [f"its table {table} is not there" in problem for problem in problems(file)] == [True]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["flipped", "truncated", "zeros"])
def test_bytes_that_change_make_a_sentence_or_what_can_be_read(
    file: Path, kind: str, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, before, draw = file.read_bytes(), listed(file), np.random.default_rng(seed)
    for place in draw.integers(0, len(whole), size=12):
        blob = bytearray(whole[:place] if kind == "truncated" else whole)
        if kind == "flipped":
            blob[place] ^= 1 << int(draw.integers(8))
        elif kind == "zeros":
            blob[place : place + 512] = bytes(len(blob[place : place + 512]))
        file.write_bytes(blob)
        capsys.readouterr()
        try:
            found = listed(file)
        except ConfigError as error:
            assert str(file.parent) in str(error)
            assert problems(file)
            continue
        said = capsys.readouterr().err
        lost = len(before) - len(found)
        assert lost <= 0 or "is damaged and left out" in said, f"byte {place}: {lost} runs are lost without a word"


def test_rows_that_belong_to_no_run_are_found(file: Path) -> None:
    assert problems(file) == []
    first = listed(file)[0]
    execute(file, f"DELETE FROM runs WHERE id = '{first}'")
    counts = {"rounds": ROUNDS, "holdings": 3}
    assert set(problems(file)) == {f"{count} rows of {table} belong to no row of runs" for table, count in counts.items()}


def test_a_file_that_another_holds_is_not_read_as_one_that_nobody_writes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    execute(file, "PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match=f"{file} is locked, by a .*; try again when it is free"):
            open_to_read(file)
    open_to_read(file).close()
