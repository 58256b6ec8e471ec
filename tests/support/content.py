"""What a results database says, without what differs from one time to the next: ids, times, seconds, processes, memory, ..."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

PASSING = {
    "id",
    "run",
    "started",
    "finished",
    "pid",
    "born",
    "heartbeat",
    "startup",
    "command",
    "peak_rss",
    "error",
    "git_commit",
    "other_cpu",
}


def content(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of all tables by table, for each run by its settings and seed. No experiment may stand there twice."""
    connection = sqlite3.connect(folder / "fedsam.db")
    connection.row_factory = sqlite3.Row
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for run in connection.execute("SELECT * FROM runs"):
        tables: dict[str, Any] = defaultdict(list) | {"run": _lasting(run)}
        for table in ("rounds", "measures", "clients", "slices", "holdings"):
            rows = connection.execute(f"SELECT * FROM {table} WHERE run = ?", (run["id"],))
            tables[table] = sorted((_lasting(row) for row in rows if "seconds" not in dict(row).get("name", "")), key=repr)
        assert (run["config_hash"], run["seed"]) not in found
        found[run["config_hash"], run["seed"]] = tables
    connection.close()
    return found


def _lasting(row: sqlite3.Row) -> dict[str, Any]:
    values = {key: value for key, value in dict(row).items() if key not in PASSING and not key.endswith("seconds")}
    if "config" in values:
        settings = json.loads(values["config"])
        values["config"] = {key: value for key, value in settings.items() if key not in ("runs_dir", "compute")}
    return values
