"""Tuning as the page shows it: for each study how far it is, the best trial so far, and what that tried."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from experiments.watching import cells
from experiments.watching.cells import Cell, table
from experiments.watching.index import IndexedRun
from fedsam.formatting import printable
from fedsam.results.tuning import METRICS

MOST_STUDIES = 60  # rows of the table
QUERY = """
    SELECT study, label, settings, number, parameters, avg(value) AS value, count(*) AS runs, count(value) AS ended, max(pruned) AS pruned
    FROM trials JOIN studies ON study = studies.id
    WHERE study IN (SELECT DISTINCT study FROM trials WHERE run IN (SELECT value FROM json_each(?)))
    GROUP BY study, number ORDER BY studies.rowid, number"""


def trial_runs(connection: sqlite3.Connection) -> set[str]:
    """Ids of the runs that are trials of tuning."""
    return {run for (run,) in connection.execute("SELECT DISTINCT run FROM trials")}


def study_table(connection: sqlite3.Connection, shown: Sequence[IndexedRun]) -> dict[str, Any]:
    """The studies that any of the runs is a trial of."""
    studies: dict[str, list[sqlite3.Row]] = {}
    for trial in connection.execute(QUERY, (json.dumps([run.id for run in shown]),)):
        studies.setdefault(trial["study"], []).append(trial)
    rows = [_row(trials[0]["label"], json.loads(trials[0]["settings"]), trials) for trials in studies.values()]
    columns = ("method", ">trials", ">pruned", ">best", "with")
    return table("tuning", "Tuning", columns, rows[-MOST_STUDIES:])


def _row(label: str, settings: dict[str, Any], trials: Sequence[sqlite3.Row]) -> list[Cell]:
    metric, wanted = settings["metric"], settings["trials"]
    done = [trial for trial in trials if trial["pruned"] or trial["ended"] == len(settings["seeds"])]
    whole = [trial for trial in done if not trial["pruned"] and trial["value"] is not None]
    best = (max if METRICS[metric] else min)(whole, key=lambda trial: trial["value"], default=None)
    text = f"{len(done)}/{wanted}"
    made: Cell = text if len(done) == wanted else {"text": text, "bar": len(done) / wanted}
    tried = json.loads(best["parameters"]) if best else {}
    values = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in tried.items())
    pruned = sum(bool(trial["pruned"]) for trial in done)
    return [printable(label), made, str(pruned), cells.value_text(best["value"] if best else None, metric), printable(values) or "–"]
