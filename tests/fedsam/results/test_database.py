"""The SQLite file of the results: older versions."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedsam.config import ConfigError, Experiment
from fedsam.results.database import RUN_COLUMNS, open_to_read
from fedsam.results.rows import Run, Status
from fedsam.results.store import Results
from tests.fedsam.results.test_store import HOLDINGS, PROVENANCE, row, start

RUNS = """CREATE TABLE old_runs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL CHECK (status IN ('running', 'finished', 'failed', 'interrupted')),
    error TEXT, started TEXT NOT NULL, finished TEXT, config TEXT NOT NULL, config_hash TEXT NOT NULL, seed INTEGER NOT NULL,
    dataset TEXT NOT NULL, dataset_wanted TEXT NOT NULL, clients INTEGER NOT NULL, classes INTEGER NOT NULL,
    git_commit TEXT NOT NULL, versions TEXT NOT NULL, device TEXT NOT NULL, command TEXT NOT NULL,
    host TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL, startup REAL, heartbeat REAL, other_cpu REAL)"""  # of version 4


def write_old(runs_dir: Path, version: int) -> list[str]:
    """A file as a fedsam of that version left it: the first of three runs is deleted; ids of the others, which have a round each."""
    with Results.open(runs_dir) as results:
        gone, *kept = (start(results) for _ in range(3))
        for run in kept:
            results.append_round(row(run, 1, measures={"test_loss": 2.0}))
            results.finish_run(run, "failed", "no memory")
        results.finish_run(gone, "finished")
        results.delete(gone)
    with closing(sqlite3.connect(runs_dir / "fedsam.db", isolation_level=None)) as connection:
        for statement in (
            RUNS if version < 5 else RUNS.replace("'interrupted'", "'interrupted', 'diverged'"),
            f"INSERT INTO old_runs (rowid, {RUN_COLUMNS}) SELECT rowid, {RUN_COLUMNS} FROM runs",
            "DROP TABLE runs",
            "ALTER TABLE old_runs RENAME TO runs",
            *(f"DROP TABLE {name}" for name in ("trials", "tuned", "studies")),
            *(["DROP TABLE tags", *(f"ALTER TABLE runs DROP COLUMN {name}" for name in ("heartbeat", "other_cpu"))] if version < 4 else []),
            *(["DROP TABLE classes"] if version < 3 else []),
            f"PRAGMA user_version = {version}",
        ):
            connection.execute(statement)
    return kept


def tables(runs_dir: Path) -> dict[str, str]:
    """The statement that made each table, without quotes and the space between words."""
    with closing(sqlite3.connect(runs_dir / "fedsam.db")) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r"[\s\"]+", "", sql) for name, sql in found}


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_files_of_all_versions_before_are_brought_up(version: int, runs_dir: Path, tmp_path: Path) -> None:
    kept = write_old(runs_dir, version)
    Results.open(tmp_path / "new").close()
    for time in range(2):
        with Results.open(runs_dir) as results:
            assert [(run.id, run.status, run.error) for run in results.runs()][:2] == [(run, "failed", "no memory") for run in kept]
            assert [results.rounds(run) for run in kept] == [[row(run, 1, measures={"test_loss": 2.0})] for run in kept]
            assert (results.class_names(kept[0]), results.tags()) == ((), {})
            assert (results.label_distribution(kept[0]) == HOLDINGS).all()
            experiment, names = Experiment(), ("a", "b", "c")
            new = results.start_run(
                experiment, experiment.dump(), dataset="digits", label_distribution=HOLDINGS, provenance=PROVENANCE, class_names=names
            )
            results.append_round(row(new, 1))
            status: Status = "pruned" if time else "diverged"
            results.finish_run(new, status, "as the test says")
            assert (results.class_names(new), results.runs()[2 + time].status) == (names, status)
            assert results._connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert tables(runs_dir) == tables(tmp_path / "new")


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_file_of_an_older_version_that_cannot_be_written_is_read_or_refused(
    version: int, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = write_old(runs_dir, version)
    plain = sqlite3.connect

    def read_only(name: str, **options: object) -> sqlite3.Connection:  # as where the user may only read
        if not options["uri"]:
            raise sqlite3.OperationalError("unable to open database file")
        return plain(name, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", read_only)
    if version == 3:
        with pytest.raises(ConfigError, match="its tables have version 3 of an older fedsam; copy it to where you may write"):
            open_to_read(runs_dir / "fedsam.db")
        return
    with closing(open_to_read(runs_dir / "fedsam.db")) as connection:
        assert [Run.from_entry(entry).id for entry in connection.execute("SELECT * FROM runs ORDER BY rowid")] == kept
        assert [connection.execute(f"SELECT * FROM {name}").fetchall() for name in ("studies", "trials", "tuned")] == [[], [], []]
