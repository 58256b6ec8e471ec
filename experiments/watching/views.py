"""What the page shows, as plain values: one set of runs with curves and tables, the list of sets, the list of runs."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.watching.cells import page_of, progress_cell, status_cell, statuses_cell, table, time_text, value_text
from experiments.watching.curves import with_settings
from experiments.watching.index import IndexedRun, RunIndex
from experiments.watching.progress import run_fraction
from experiments.watching.rounds import RoundsCache
from experiments.watching.set_view import SetViews, set_link
from experiments.watching.sets import Kind, RunSet, kind_of, run_sets
from fedsam.formatting import plural
from fedsam.results.rows import Run
from fedsam.wording import ConfigError

REFRESH_SECONDS = 0.8  # a view that is younger is not read again: several windows cost no more than one
SETS, RUNS = 20, 50  # rows of a page
TITLES: Mapping[Kind, str] = {"command": "Commands", "alike": "Runs that can be compared"}


@dataclass(frozen=True)
class ViewRequest:
    """What a window of the page shows.

    Attributes:
        view: `latest`, the set that is at work or else the newest; `set`; `command` or `alike`, lists of sets; or `runs`.
        key: Of a set.
        page: From 1, of a list that has pages.
        measure: Of the curves; empty: one that has a value in most rounds.
        search: Part of the id, method, dataset or status of the runs that are listed.
    """

    view: str = "latest"
    key: str = ""
    page: int = 1
    measure: str = ""
    search: str = ""


class Views:
    """Makes what windows of the page show; safe to use from several threads. Arguments are those of `RunIndex`."""

    def __init__(self, folder: Path, cores: int) -> None:
        self.index = RunIndex(folder, cores)
        self._lock = threading.Lock()
        self._refreshed = 0.0
        self._rounds = RoundsCache()
        self._sets = SetViews(self._rounds)
        self._grouped: tuple[int, dict[Kind, dict[str, RunSet]]] = (-1, {})

    def version(self) -> int:
        """Of what can be shown now, after reading what is new."""
        with self._lock:
            return self._refresh()

    def show(self, request: ViewRequest) -> dict[str, Any]:
        """What a window shows now."""
        with self._lock:
            self._refresh()
            runs, problem = self.index.runs, self.index.problem
            found: dict[str, Any] = {"kind": "empty", "title": "No runs yet" if not problem else "", "tables": []}
            if runs:
                try:
                    with self.index.connected() as connection:
                        found = self._view(connection, request)
                except (ConfigError, sqlite3.Error, OSError) as error:  # the file has gone or is being replaced: the next view tells
                    problem = problem or str(error)
            totals = [{"text": f"{number} {status}", "tone": status} for status, number in sorted(self._totals().items())]
            return {"path": str(self.index.path), "problem": problem, "totals": totals, **found}

    def finished_runs(self, key: str) -> dict[str, list[Run]]:
        """The runs of a set that have finished or diverged, with all their settings, by what they must share to be compared."""
        from experiments.reporting.groups import comparable

        with self._lock:
            self._refresh()
            found = self._set(key)
            if found is None:
                return {}
            with self.index.connected() as connection:
                return comparable([run for run in with_settings(connection, found.runs) if run.status in ("finished", "diverged")])

    def _refresh(self) -> int:
        now = time.monotonic()
        if now - self._refreshed > REFRESH_SECONDS:
            self.index.refresh()
            self._refreshed = time.monotonic()
        return self.index.version

    def _totals(self) -> Counter[str]:
        return Counter(run.status for run in self.index.runs.values())

    def _of_kind(self, kind: Kind) -> dict[str, RunSet]:
        if self._grouped[0] != self.index.version:
            self._grouped = self.index.version, {}
        if kind not in self._grouped[1]:
            self._grouped[1][kind] = run_sets(self.index.runs.values(), kind)
        return self._grouped[1][kind]

    def _set(self, key: str) -> RunSet | None:
        kind = kind_of(key)
        return self._of_kind(kind).get(key) if kind else None

    def _view(self, connection: sqlite3.Connection, request: ViewRequest) -> dict[str, Any]:
        kind = next((kind for kind in TITLES if kind == request.view), None)
        if kind is not None:
            return self._list(kind, request.page)
        if request.view == "runs":
            return self._runs(connection, request)
        sets = list(self._of_kind("command").values())
        chosen = self._set(request.key) if request.view == "set" else next((one for one in sets if one.is_at_work), sets[0])
        if chosen is None:
            return {"kind": "empty", "title": "These runs are not there any more", "tables": []}
        return self._sets.show(connection, chosen, self.index, request.page, request.measure)

    def _list(self, kind: Kind, page: int) -> dict[str, Any]:
        sets, pages = page_of(list(self._of_kind(kind).values()), page, SETS)
        rows = [
            [
                {"text": one.title, "href": set_link(one.key)},
                ", ".join(sorted({run.dataset for run in one.runs})),
                str(len(one.runs)),
                statuses_cell(one.statuses),
                time_text(one.runs[-1].started),
            ]
            for one in sets
        ]
        columns = ("command" if kind == "command" else "dataset and length", "dataset", ">runs", "status", "last start")
        return {"kind": "list", "title": TITLES[kind], "tables": [table(kind, "", columns, rows, pages=pages)]}

    def _runs(self, connection: sqlite3.Connection, request: ViewRequest) -> dict[str, Any]:
        wanted = request.search.casefold().split()
        found = [run for run in sorted(self.index.runs.values(), key=lambda run: -run.row) if _fits(run, wanted)]
        shown, pages = page_of(found, request.page, RUNS)
        rounds = self._rounds.read(connection, shown, "test_accuracy")
        commands = {run.id: one.key for one in self._of_kind("command").values() for run in one.runs} if shown else {}
        rows = []
        for run in shown:
            of_run = rounds[run.id]
            accuracy = next(reversed(of_run.points.values()), None)
            rows.append(
                [
                    {"text": run.id, "href": set_link(commands[run.id])},
                    run.method,
                    run.dataset,
                    str(run.clients),
                    str(run.seed),
                    progress_cell(run, of_run.last, run_fraction(run, of_run)),
                    value_text(accuracy, "test_accuracy"),
                    status_cell(run.status),
                    time_text(run.started),
                ]
            )
        columns = ("run", "method", "dataset", ">clients", ">seed", ">rounds", ">test accuracy", "status", "start")
        return {
            "kind": "list",
            "title": plural(len(found), "run"),
            "search": request.search,
            "tables": [table("runs", "", columns, rows, pages=pages)],
        }


def _fits(run: IndexedRun, words: Sequence[str]) -> bool:
    text = f"{run.id} {run.method} {run.dataset} {run.status} {run.error or ''}".casefold() if words else ""
    return all(word in text for word in words)
