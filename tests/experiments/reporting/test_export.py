"""Exported tables hold what the database holds."""

from __future__ import annotations

import csv
import math
import sqlite3
import sys
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from experiments.callbacks.plans import PlannedWork, add_plan
from experiments.reporting import export as module
from experiments.reporting.export import Format, export
from fedsam.config import ConfigError
from fedsam.imports import require
from fedsam.results.database import DATABASE_NAME
from fedsam.results.rows import ClientRow, Row, Slice
from fedsam.results.store import Results
from tests.support.recorded import add, row

TABLES = {"runs", "rounds", "measures", "clients", "slices", "holdings", "classes", "tags", "studies", "trials", "tuned"}


@pytest.fixture
def runs(runs_dir: Path) -> list[str]:
    """Two runs, the second one diverged, with a client that failed and a slice; the first is a trial and was tuned by another study."""
    with Results.open(runs_dir) as results:
        first = add(results, [0.5, None, 0.75])
        second = add(results, [0.1], status="running")
        client = ClientRow(client=3, examples=0, steps=0, train_loss=math.nan, seconds=0.0, status='failed: "no, not now"')
        diverged = row(second, 2, {"test_loss": math.nan}, 100)
        results.append_round(Row(**{**vars(diverged), "train_loss": math.nan, "clients": (client,)}))
        results.add_slice(Slice(run=second, round=2, name="line", alphas=(-1.0, 0.0), losses=((math.nan,), (2.0,))))
        results.finish_run(second, "failed", "it diverged")
        results.set_tags(first, ["paper"])
        for study, label in (("s1", "sgd"), ("s2", "sam")):
            results._connection.execute("INSERT INTO studies VALUES (?, ?, '{}')", (study, label))
        results._connection.execute("INSERT INTO trials VALUES ('s1', 1, ?, '{}', 0.5, 0)", (first,))
        results._connection.execute("INSERT INTO tuned VALUES (?, 's2')", (first,))
    return [first, second]


def test_plans_of_commands_are_no_results(runs_dir: Path, runs: list[str], tmp_path: Path) -> None:
    add_plan(runs_dir / DATABASE_NAME, [PlannedWork(work=1.0, rounds=2, run=runs[0])])
    written = export(runs_dir / DATABASE_NAME, runs, tmp_path / "out", Format.CSV)
    assert {path.stem for path in written} == TABLES


def test_parquet_has_every_table_with_its_types(runs_dir: Path, runs: list[str], tmp_path: Path) -> None:
    written = export(runs_dir / DATABASE_NAME, runs, tmp_path / "out", Format.PARQUET)
    tables = {path.stem: pyarrow.parquet.read_table(path) for path in written}
    assert set(tables) == TABLES
    connection = sqlite3.connect(runs_dir / DATABASE_NAME)
    for name, table in tables.items():
        columns = [entry[1] for entry in connection.execute(f"PRAGMA table_info({name})")]
        want = connection.execute(f"SELECT * FROM {name}").fetchall()
        got = [tuple(None if value != value else value for value in entry.values()) for entry in table.to_pylist()]
        assert table.column_names == columns
        assert sorted(got, key=str) == sorted(want, key=str)
        assert written[tmp_path / "out" / f"{name}.parquet"] == len(want) > 0
    connection.close()
    assert str(tables["rounds"].schema.field("flops").type) == "int64"
    assert str(tables["rounds"].schema.field("wall_seconds").type) == "double"
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".parquet"] * len(TABLES)


def test_what_is_no_number_is_nan_and_what_was_not_measured_is_null(runs_dir: Path, runs: list[str], tmp_path: Path) -> None:
    export(runs_dir / DATABASE_NAME, runs, tmp_path, Format.PARQUET)
    read = {name: pyarrow.parquet.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in TABLES}
    assert math.isnan(next(entry["value"] for entry in read["measures"] if entry["run"] == runs[1] and entry["round"] == 2))
    assert math.isnan(read["clients"][0]["train_loss"]) and math.isnan(read["slices"][0]["loss"])
    assert {entry["peak_device_memory"] for entry in read["rounds"]} == {None}
    assert len([entry for entry in read["measures"] if entry["run"] == runs[0]]) == 4  # two of three rounds were evaluated


def test_csv_holds_the_same(runs_dir: Path, runs: list[str], tmp_path: Path) -> None:
    for kind in Format:
        export(runs_dir / DATABASE_NAME, runs, tmp_path, kind)
    for name in TABLES:
        parquet = pyarrow.parquet.read_table(tmp_path / f"{name}.parquet")
        options = pyarrow.csv.ConvertOptions(
            column_types=parquet.schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        csv = pyarrow.csv.read_csv(tmp_path / f"{name}.csv", convert_options=options)
        assert str(csv.to_pylist()) == str(parquet.to_pylist())
    assert "nan" in (tmp_path / "slices.csv").read_text()


def test_only_the_chosen_runs(runs_dir: Path, runs: list[str], tmp_path: Path) -> None:
    written = export(runs_dir / DATABASE_NAME, runs[:1], tmp_path, Format.PARQUET)
    assert written[tmp_path / "slices.parquet"] == 0
    tables = {path.stem: pyarrow.parquet.read_table(path) for path in written}
    assert tables.pop("studies").column("id").to_pylist() == ["s1", "s2"]
    assert all(set(table.column("id" if name == "runs" else "run").to_pylist()) <= {runs[0]} for name, table in tables.items())
    export(runs_dir / DATABASE_NAME, runs[1:], tmp_path, Format.PARQUET)
    assert not [name for name in ("studies", "trials", "tuned") if pyarrow.parquet.read_table(tmp_path / f"{name}.parquet").num_rows]


def test_many_rows_come_in_batches(runs_dir: Path, runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(runs_dir / DATABASE_NAME, runs, tmp_path / "one", Format.PARQUET)
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    export(runs_dir / DATABASE_NAME, runs, tmp_path / "many", Format.PARQUET)
    one, many = (pyarrow.parquet.ParquetFile(tmp_path / folder / "holdings.parquet") for folder in ("one", "many"))
    assert many.num_row_groups > one.num_row_groups == 1
    assert one.read() == many.read()


def test_a_package_that_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    require("pyarrow", "fedsam export")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"fedsam export: needs the package pyarrow, .*: pip install pyarrow"):
        require("pyarrow", "fedsam export")


def test_a_spreadsheet_takes_no_text_for_a_formula(runs_dir: Path, tmp_path: Path) -> None:
    with Results.open(runs_dir) as results:
        run = add(results, [0.5], name="=cmd|' /C calc'!A0", error="+1", status="failed")
    for kind in Format:
        export(runs_dir / DATABASE_NAME, [run], tmp_path, kind)
    with (tmp_path / "runs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["name"], row["error"], row["id"]) == ("'=cmd|' /C calc'!A0", "'+1", run)
    assert pyarrow.parquet.read_table(tmp_path / "runs.parquet").to_pylist()[0]["name"] == "=cmd|' /C calc'!A0"
