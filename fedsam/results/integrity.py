"""Whether a results file is whole: SQLite's own checks, and whether each run can be read."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from fedsam.results.database import open_to_read
from fedsam.results.listing import listed_runs
from fedsam.results.reading import ResultsReader
from fedsam.wording import ConfigError

MOST = 5  # problems that are named


def problems(path: Path) -> list[str]:
    """What is wrong with the file, in words; empty where nothing is."""
    try:
        with closing(open_to_read(path)) as connection:
            found = [text for (text,) in connection.execute(f"PRAGMA integrity_check({MOST})") if text != "ok"]
            strays = Counter((row[0], row[2]) for row in connection.execute("PRAGMA foreign_key_check"))
            found += [f"{count} rows of {table} belong to no row of {parent}" for (table, parent), count in strays.items()]
            reader = ResultsReader(connection, path)
            listed_runs(reader)
            return found + [f"{run} cannot be read ({reason})" for run, reason in reader.left_out.items()]
    except (ConfigError, sqlite3.DatabaseError) as error:
        return [str(error)]
