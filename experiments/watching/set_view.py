"""A set of runs as the page shows it: progress, curves, methods, runs at work, failures, reports."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.callbacks.plans import RunPlan, plan_of
from experiments.watching import cells
from experiments.watching.cells import Cell, table
from experiments.watching.curves import Method, MethodTable, Point, curve
from experiments.watching.index import IndexedRun, RunIndex
from experiments.watching.progress import plan_progress, run_eta, run_fraction
from experiments.watching.rounds import RoundsCache, RunRounds
from experiments.watching.sets import RunSet
from experiments.watching.trials import study_table
from fedsam.formatting import plural, printable
from fedsam.results.store import Results

MOST_RUNS = 400  # of a set, the newest
MOST_PANELS, MOST_LINES = 12, 40
RUNS, AT_WORK, FAILURES = 25, 40, 20  # rows of tables
# Of the curves, the first that most rounds have; then whatever else was measured.
USUAL_MEASURES = ("test_accuracy", "validation_accuracy", "train_loss")
LOSSES = ("test_loss", "validation_loss")
LOOKED_AT = 5  # of the oldest and of the newest runs, to see what is measured
COUNTED_EVERY = 50  # rounds of a long run
ENDED_BADLY = ("failed", "diverged")


def set_link(key: str) -> str:
    """The address of a set within the page."""
    return f"#set={key}"


class SetViews:
    """Makes the views of sets; keeps what does not change."""

    def __init__(self, rounds: RoundsCache) -> None:
        self._rounds = rounds
        self._methods = MethodTable()
        self._counts: dict[tuple[str, str, int], dict[str, int]] = {}

    def show(self, connection: sqlite3.Connection, chosen: RunSet, index: RunIndex, page: int, measure: str) -> dict[str, Any]:
        """The view of a set.

        Args:
            page: Of the table of its runs.
            measure: Of the curves; empty, or one that was not taken: a usual one.
        """
        shown = chosen.runs[-MOST_RUNS:]
        measures, usual = self._measures(connection, shown)
        measure = measure if measure in measures else usual
        rounds = self._rounds.read(connection, shown, measure)
        results = Results(connection, index.path)
        trials = results.trial_runs()
        final = [run for run in shown if run.id not in trials]
        methods, unreadable = self._methods.methods(
            connection, final or shown, results.tuned_settings([run.id for run in final])
        )  # trials have curves while there is nothing else
        curves = [curve(method.runs, rounds) for method in methods]
        styles = {label: number for number, label in enumerate(dict.fromkeys(method.label for method in methods))}
        names = {run.id: method.label for method in methods for run in method.every}
        plan = plan_of(connection, chosen.runs[-1].id) if chosen.kind == "command" else None
        notes = [f"the newest {MOST_RUNS} of {len(chosen.runs)} runs"] if len(shown) < len(chosen.runs) else []
        notes += [f"{plural(unreadable, 'run')} cannot be read and {'is' if unreadable == 1 else 'are'} in no curve"] if unreadable else []
        tables = [
            _at_work_table(shown, rounds, names, measure, plan),
            study_table(results.studies_of_trials([run.id for run in shown])),
            _method_table(methods if final else [], curves if final else [], styles, measure),
            _failed_table(shown, names),
            _client_table(connection, shown, rounds, names),
            _run_table(shown, rounds, names, measure, page),
        ]
        return {
            "kind": "set",
            "key": chosen.key,
            "title": chosen.title,
            "alike": sorted({run.alike for run in chosen.runs}),
            "notes": notes,
            "progress": self._progress(connection, shown, index, rounds, measure, plan),
            "utilisation": _utilisation(shown, rounds),
            "chart": {
                "measure": measure,
                "measures": measures,
                "percent": cells.is_accuracy(measure),
                "panels": _panels(methods, curves, styles),
            },
            "tables": [one for one in tables if one["rows"]],
            "reports": sum(run.status in ("finished", "diverged") for run in shown),
        }

    def _progress(
        self,
        connection: sqlite3.Connection,
        shown: Sequence[IndexedRun],
        index: RunIndex,
        rounds: Mapping[str, RunRounds],
        measure: str,
        plan: RunPlan | None,
    ) -> dict[str, Any]:
        """How far the command is, by its plan; without one, how far its runs are."""
        if plan is None:
            done = sum(run_fraction(run, rounds[run.id]) for run in shown) / len(shown)
            ended = sum(run.has_ended for run in shown)
            eta = _only_eta(shown, rounds)
            return {"fraction": done, "ended": ended, "runs": len(shown), "eta": eta}
        ours = [run for one in plan.runs if (run := index.runs.get(one.run or "")) and run.id not in rounds]
        found = plan_progress(plan, index.runs, {**self._rounds.read(connection, ours, measure), **rounds}, time.time())
        return {"fraction": found.fraction, "ended": found.ended, "runs": found.runs, "eta": found.eta}

    def _measures(self, connection: sqlite3.Connection, runs: Sequence[IndexedRun]) -> tuple[list[str], str]:
        """The measures that the runs have, and the one to show first: a usual one that has several values, as some of the runs show."""
        found: dict[str, int] = {"train_loss": 2}
        for run in (*runs[:LOOKED_AT], *runs[-LOOKED_AT:]):
            for name, number in self._count(connection, run).items():
                found[name] = max(found.get(name, 0), number)
        known = [name for name in (*USUAL_MEASURES, *LOSSES) if name in found]
        return known + sorted(found.keys() - set(known)), next(name for name in USUAL_MEASURES if found.get(name, 0) > 1)

    def _count(self, connection: sqlite3.Connection, run: IndexedRun) -> dict[str, int]:
        """How many values of each measure a run has; of a long run at work not after every round, since all of them are counted."""
        (last,) = connection.execute("SELECT max(round) FROM rounds WHERE run = ?", (run.id,)).fetchone()
        state = run.id, run.status, last if (last or 0) < COUNTED_EVERY else last // COUNTED_EVERY * COUNTED_EVERY
        if state not in self._counts:
            query = "SELECT name, count(*) FROM measures WHERE run = ? AND name NOT LIKE 'class!_accuracy!_%' ESCAPE '!' GROUP BY name"
            self._counts[state] = dict(connection.execute(query, (run.id,)).fetchall())
        return self._counts[state]


def _only_eta(shown: Sequence[IndexedRun], rounds: Mapping[str, RunRounds]) -> float | None:
    """The remaining time of the last to end of the runs at work."""
    times = [run_eta(run, rounds[run.id], 0, time.time()) for run in shown if run.is_running]
    return max((each for each in times if each is not None), default=None)


def _panels(methods: Sequence[Method], curves: Sequence[Sequence[Point]], styles: Mapping[str, int]) -> list[dict[str, Any]]:
    """A chart for each condition."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for method, points in zip(methods, curves, strict=True):
        if points:
            line = {"label": method.label, "style": styles[method.label], "points": cells.plain_points(points)}
            panels.setdefault(method.condition, []).append(line)
    every = [{"title": title, "lines": lines[:MOST_LINES], "more": max(0, len(lines) - MOST_LINES)} for title, lines in panels.items()]
    return every[:MOST_PANELS]


def _utilisation(shown: Sequence[IndexedRun], rounds: Mapping[str, RunRounds]) -> dict[str, Any]:
    """Clients that train now, of all runs at work."""
    running = [run for run in shown if run.is_running]
    busy = [value for run in running if (value := rounds[run.id].busy_actors) is not None]
    actors = {run.actors for run in running}
    known = actors.pop() if len(actors) == 1 else None
    return {
        "at_work": len(running),
        "cohort": sum(rounds[run.id].cohort or 0 for run in running),
        "busy": sum(busy) if busy else None,
        "actors": known,
        "failures": sum(rounds[run.id].failures for run in shown),
        "retries": sum(rounds[run.id].retries for run in shown),
    }


def _at_work_table(
    shown: Sequence[IndexedRun], rounds: Mapping[str, RunRounds], names: Mapping[str, str], measure: str, plan: RunPlan | None
) -> dict[str, Any]:
    before = {one.run: one.rounds_before for one in plan.runs} if plan else {}
    rows: list[list[Cell]] = []
    for run in [run for run in shown if run.is_running][:AT_WORK]:
        of_run = rounds[run.id]
        busy = cells.number_text(of_run.busy_actors) + (f" of {run.actors}" if run.actors else "")
        rows.append(
            [
                names.get(run.id, run.method),
                str(run.clients),
                str(run.seed),
                cells.progress_cell(run, of_run.last, run_fraction(run, of_run)),
                cells.eta_text(run_eta(run, of_run, before.get(run.id, 0), time.time())),
                cells.value_text(next(reversed(of_run.points.values()), None), measure),
                "–" if of_run.cohort is None else str(of_run.cohort),
                busy,
                cells.number_text(of_run.seconds_per_round, 2),
                str(of_run.failures),
                str(of_run.retries),
            ]
        )
    columns = (
        "method",
        ">clients",
        ">seed",
        ">rounds",
        ">left",
        f">{measure.replace('_', ' ')}",
        ">cohort",
        ">busy actors",
        ">s per round",
    )
    return table("at-work", "At work", (*columns, ">client failures", ">retries"), rows)


def _method_table(methods: Sequence[Method], curves: Sequence[Sequence[Point]], styles: Mapping[str, int], measure: str) -> dict[str, Any]:
    several = len({method.condition for method in methods}) > 1
    rows: list[list[Cell]] = []
    for method, points in zip(methods, curves, strict=True):
        first: Cell = {"text": method.label, "line": styles[method.label]}
        last = points[-1] if points else None
        where: list[Cell] = [method.condition] if several else []
        rows.append(
            [
                first,
                *where,
                cells.estimate_text(points, measure),
                str(last[0]) if last else "–",
                str(last[3]) if last else "0",
                cells.statuses_cell(method.statuses),
            ]
        )
    where_title = ("condition",) if several else ()
    columns = ("method", *where_title, f">last {measure.replace('_', ' ')}", ">after round", ">seeds", "runs")
    return table("methods", "Methods", columns, rows)


def _failed_table(shown: Sequence[IndexedRun], names: Mapping[str, str]) -> dict[str, Any]:
    failed = [run for run in reversed(shown) if run.status in ENDED_BADLY or (run.error and run.status not in ("running", "pruned"))]
    rows: list[list[Cell]] = []
    for run in failed[:FAILURES]:
        why: Cell = {"text": cells.error_text(run.error), "wide": True}
        rows.append([run.id, names.get(run.id, run.method), str(run.seed), cells.status_cell(run.status), why])
    title = "Runs that failed" + (f", the newest {FAILURES} of {len(failed)}" if len(failed) > FAILURES else "")
    return table("failed", title, ("run", "method", ">seed", "status", "why"), rows)


def _client_table(
    connection: sqlite3.Connection, shown: Sequence[IndexedRun], rounds: Mapping[str, RunRounds], names: Mapping[str, str]
) -> dict[str, Any]:
    """The newest failures of clients."""
    places = [(run, row.round) for run in reversed(shown) for row in reversed(rounds[run.id].rows) if row.failures][:FAILURES]
    rows: list[list[Cell]] = []
    for run, round in places:
        query = "SELECT client, status FROM clients WHERE run = ? AND round = ? AND status != 'ok' ORDER BY client LIMIT ?"
        for client, status in connection.execute(query, (run.id, round, FAILURES)):
            why: Cell = {"text": cells.error_text(status), "wide": True}
            rows.append([run.id, names.get(run.id, run.method), str(round), str(client), why])
    return table("clients", "Clients that failed", ("run", "method", ">round", ">client", "why"), rows[:FAILURES])


def _run_table(
    shown: Sequence[IndexedRun], rounds: Mapping[str, RunRounds], names: Mapping[str, str], measure: str, page: int
) -> dict[str, Any]:
    some, pages = cells.page_of(list(reversed(shown)), page, RUNS)
    rows: list[list[Cell]] = []
    for run in some:
        of_run = rounds[run.id]
        value = next(reversed(of_run.points.values()), math.nan if run.status == "diverged" else None)
        rows.append(
            [
                run.id,
                printable(names.get(run.id, run.method)),
                str(run.clients),
                str(run.seed),
                cells.progress_cell(run, of_run.last, run_fraction(run, of_run)),
                cells.value_text(value, measure),
                cells.status_cell(run.status),
                cells.time_text(run.started),
            ]
        )
    columns = ("run", "method", ">clients", ">seed", ">rounds", f">{measure.replace('_', ' ')}", "status", "start")
    return table("runs", "Runs", columns, rows, pages=pages)
