"""The tables of a results database as Parquet or CSV files, for pandas, polars, R and spreadsheets.

Texts of CSV that a spreadsheet would take for a formula have an apostrophe before them.
A NULL of the database that stands for NaN is NaN in the files; a value that was not measured is null in Parquet and empty in CSV.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from fedsam.formatting import no_formula
from fedsam.results.database import STATEMENTS, DamagedError, open_to_read

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 50_000  # in memory at once
GIVEN = "IN (SELECT value FROM json_each(?1))"  # the ids of the runs
CHOSEN = {  # what tells the rows of runs, in tables without a column for that
    "runs": f"id {GIVEN}",
    "studies": f"id IN (SELECT study FROM trials WHERE run {GIVEN} UNION SELECT study FROM tuned WHERE run {GIVEN})",
}
NAN_COLUMNS = {("rounds", "train_loss"), ("clients", "train_loss"), ("measures", "value"), ("slices", "loss")}


class Format(StrEnum):
    """File formats."""

    PARQUET = "parquet"
    CSV = "csv"


def export(database: Path, runs: Sequence[str], folder: Path, kind: Format) -> dict[Path, int]:
    """Write the rows of the given runs of every table, and their studies, to a file in `folder`; returns the number of rows of each file.

    The files are consistent even if runs are active, and each is written
    atomically. Raises `DamagedError` where rows cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    with closing(open_to_read(database)) as connection:
        connection.execute("BEGIN")
        try:
            for table in STATEMENTS:
                target = folder / f"{table}.{kind}"
                written[target] = _write(connection, table, json.dumps(list(runs)), target, kind)
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:  # pyarrow raises the latter two for values of the wrong type
            raise DamagedError(database, f"{table}: {error}") from None
        connection.execute("COMMIT")
    return written


def _write(connection: sqlite3.Connection, table: str, runs: str, target: Path, kind: Format) -> int:
    import pyarrow
    from pyarrow.csv import CSVWriter
    from pyarrow.parquet import ParquetWriter

    types = {"TEXT": pyarrow.string(), "INTEGER": pyarrow.int64(), "REAL": pyarrow.float64()}
    columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
    schema = pyarrow.schema([(column["name"], types[column["type"]]) for column in columns])
    order = [column["name"] for column in sorted(columns, key=lambda column: int(column["pk"])) if column["pk"]]
    query = f"SELECT * FROM {table} WHERE {CHOSEN.get(table, f'run {GIVEN}')} ORDER BY {', '.join(order)}"
    partial, rows = target.with_name(f".{target.name}.partial"), 0
    with {Format.PARQUET: ParquetWriter, Format.CSV: CSVWriter}[kind](partial, schema) as writer:
        for batch in _batches(connection.execute(query, (runs,)), table, schema, escape=kind is Format.CSV):
            writer.write_batch(batch)
            rows += batch.num_rows
    partial.replace(target)
    return rows


def _batches(cursor: sqlite3.Cursor, table: str, schema: pyarrow.Schema, *, escape: bool) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    while rows := cursor.fetchmany(BATCH_ROWS):
        arrays = []
        for field, column in zip(schema, zip(*rows, strict=True), strict=True):
            values = [math.nan if value is None else value for value in column] if (table, field.name) in NAN_COLUMNS else column
            if escape:
                values = [no_formula(value) if isinstance(value, str) else value for value in values]
            arrays.append(pyarrow.array(values, field.type))
        yield pyarrow.record_batch(arrays, schema=schema)
