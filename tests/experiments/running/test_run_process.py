"""Runs in processes of their own: what happens where a process, or the one that started it, is gone, and what is sent to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import fedsam
from experiments.callbacks.callback import Callback
from fedsam.config import ConfigError, Experiment
from fedsam.overrides import override
from fedsam.results.rows import Row
from fedsam.results.store import Results
from tests.experiments.callbacks.test_named import SETTINGS
from tests.support.content import content
from tests.support.processes import HANG, alive


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    several = {"rounds": 3, "sweep": {"seeds": [0, 1, 2, 3]}, "runs_dir": str(folder)}
    return override(SETTINGS, {**several, **{key.replace("__", "."): value for key, value in changes.items()}})


def pids(folder: Path) -> list[int]:
    """The processes of runs, in the order of their start."""
    with Results.open(folder) as results:
        return [pid for (pid,) in results._connection.execute("SELECT pid FROM runs ORDER BY rowid")]


def commands(folder: Path) -> set[str]:
    """The commands that runs are recorded with."""
    with Results.open(folder) as results:
        return {command for (command,) in results._connection.execute("SELECT command FROM runs")}


class Killer(Callback):
    """Kills the process of the first run that finishes a round."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.killed = folder, threading.Event()
        self.ended: list[tuple[str, str | None]] = []

    def round(self, row: Row) -> None:
        if not self.killed.is_set():
            self.killed.set()
            os.kill(pids(self.folder)[0], signal.SIGKILL)

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        self.ended.append((status, error))


def test_a_process_that_is_killed_fails_its_run_alone_and_the_run_can_go_on(tmp_path: Path) -> None:
    fedsam.compare(settings(tmp_path / "a"), Callback())
    killer = Killer(tmp_path / "b")
    outcomes = fedsam.compare(settings(tmp_path / "b"), killer, parallel=2).outcomes
    lost = "the process of the run ended by SIGKILL"
    assert sorted(outcome.error or "" for outcome in outcomes) == ["", "", "", lost]
    assert sorted(killer.ended, key=str) == [("failed", lost), *[("finished", None)] * 3]
    assert os.getpid() not in pids(tmp_path / "b")
    assert {outcome.status for outcome in fedsam.compare(settings(tmp_path / "b"), Callback()).outcomes} == {"finished"}
    assert content(tmp_path / "a") == content(tmp_path / "b")


class Failing(Callback):
    """Cannot show the second round of the first run."""

    def __init__(self, error: Exception) -> None:
        self.error, self.first = error, ""

    def started(self, run_id: str, experiment: Experiment) -> None:
        self.first = self.first or run_id

    def round(self, row: Row) -> None:
        if (row.run, row.round) == (self.first, 2):
            raise self.error


def test_an_error_of_a_callback_ends_its_run_and_no_other(tmp_path: Path) -> None:
    error = ConnectionError("no printer")  # which is no sign that the process is gone
    outcomes = fedsam.compare(settings(tmp_path, sweep__seeds=[0, 1, 2]), Failing(error), parallel=2).outcomes
    assert sorted((outcome.status, outcome.error) for outcome in outcomes if outcome.error) == [("failed", str(error))]
    assert [outcome.status for outcome in outcomes].count("finished") == 2
    assert not [pid for pid in pids(tmp_path) if alive(pid)]


def test_components_of_the_user_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clients.py").write_text("raise ImportError('not ours')")
    (tmp_path / "halving.py").write_text("def halving(round, rounds):\n    return 0.5**round\n")
    for name, parallel in (("a", 1), ("b", 2)):
        changes = {"sweep__seeds": [0, 1], "client__schedule__name": "halving:halving"}
        outcomes = fedsam.compare(settings(tmp_path / name, **changes), Callback(), parallel=parallel).outcomes
        assert [outcome.error for outcome in outcomes] == [None, None]
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert commands(tmp_path / "a") == commands(tmp_path / "b")


@pytest.mark.parametrize("changes", [{"data__dataset": "__main__:data"}, {"client__schedule__name": "__main__:schedule"}])
def test_what_a_script_defines_is_refused(tmp_path: Path, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "data", lambda: ([[[0.0]]] * 8, [0, 1] * 4, [[[1.0]]] * 4, [0, 1] * 2), raising=False)
    monkeypatch.setattr(main, "schedule", lambda round, rounds: 1.0, raising=False)
    changes = {**changes, "data__clients": 2, "data__examples": 8, "model": "mlp"}
    with pytest.raises(ConfigError, match=r"'__main__' is not allowed as a module.*one run at a time"):
        fedsam.compare(settings(tmp_path, **changes), Callback(), parallel=2)


def test_a_run_ends_where_what_started_it_is_gone(tmp_path: Path) -> None:
    script = f"""
        import fedsam
        from experiments.callbacks.callback import Callback
        class Told(Callback):
            def round(self, row): print(row.round, flush=True)
        fedsam.compare({settings(tmp_path, rounds=10000, sweep__seeds=[0, 1])!r}, Told(), parallel=2)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "3\n":
            assert process.poll() is None
        process.kill()
    tick, left = threading.Event(), int(10 * HANG)
    while any(map(alive, pids(tmp_path))):
        tick.wait(0.1)
        left -= 1
        assert left
    with Results.open(tmp_path) as results:
        assert {run.status for run in results.runs()} == {"interrupted"}
