"""Drivers that are killed outright, again and again at random moments: the run that goes on ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from experiments.settings.toml import toml
from fedsam.grid.ray_start import DAEMONS
from fedsam.results.store import Results
from tests.experiments.running.test_resume import METHODS, carry_out, experiment, model
from tests.support.content import content
from tests.support.processes import HANG, alive, descendants, names

ROOT = Path(__file__).parents[3]
KILLS = 5
ROUNDS = 120  # at some 20 a second: enough that none of the kills comes after the end


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a short path, as Ray needs it, for what the killed leave."""
    folder = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, temporary: Path, *arguments: str) -> subprocess.Popen[bytes]:
    # What a killed driver leaves behind looks for its Ray for 60 seconds, unless it is told not to, and then ends.
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
    call = [sys.executable, "-m", "experiments.cli.main", *arguments, "--quiet"]
    return subprocess.Popen(call, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rounds(folder: Path) -> int:
    """The number of rows that were written, replaced ones among them."""
    try:
        with sqlite3.connect(f"file:{folder / 'runs/fedsam.db'}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT coalesce(max(rowid), 0) FROM rounds").fetchone()[0])
    except sqlite3.Error:
        return 0


def kill(process: subprocess.Popen[bytes], folder: Path, chance: random.Random) -> set[int]:
    """Kill the driver some time after it has written a round, or more. Returns what it leaves behind, which ends later."""
    before, more, deadline = rounds(folder), chance.randint(1, ROUNDS // (KILLS + 2)), time.monotonic() + HANG
    while rounds(folder) < before + more:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(chance.random() * 0.1)
    below = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return below


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("actors", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_driver_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, temporary: Path, method: str, actors: int) -> None:
    chance, settings = random.Random(f"{method} {actors}"), {}
    for name in ("killed", "undisturbed"):
        changes = {"rounds": ROUNDS, "compute": {"actors": actors}, "checkpoint__every": 2}
        settings[name] = experiment(Path("runs"), METHODS[method], **changes)
        (tmp_path / name).mkdir()
        (tmp_path / name / "e.toml").write_text(toml(settings[name].dump()))
    assert start(tmp_path / "undisturbed", temporary, "run", "e.toml").wait(HANG) == 0
    folder, left = tmp_path / "killed", set[int]()
    for number in range(KILLS):
        with start(folder, temporary, *(("resume", run_id(folder)) if number else ("run", "e.toml"))) as process:
            left |= kill(process, folder, chance)
    assert start(folder, temporary, "compare", "e.toml").wait(HANG) == 0
    found = {name: tmp_path / name / "runs" for name in settings}
    assert content(found["killed"]) == content(found["undisturbed"])
    assert model(found["killed"], run_id(folder)) == model(found["undisturbed"], run_id(tmp_path / "undisturbed"))
    for manifest in found["killed"].glob("*/checkpoints/*/manifest.json"):
        assert json.loads(json.loads(manifest.read_text())["manifest"])["round"] in (ROUNDS - 2, ROUNDS)
    deadline = time.monotonic() + HANG
    while any(alive(pid) for pid in left):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_comparison_whose_ray_is_lost_starts_another_and_goes_on(tmp_path: Path, temporary: Path, daemon: str) -> None:
    undisturbed = experiment(tmp_path / "runs-undisturbed", METHODS["fedsmoo"], rounds=ROUNDS, checkpoint__every=2)
    (tmp_path / "e.toml").write_text(
        toml(experiment(Path("runs"), METHODS["fedsmoo"], rounds=ROUNDS, compute={"actors": 1}, checkpoint__every=2).dump())
    )
    assert carry_out(undisturbed).status == "finished"
    with start(tmp_path, temporary, "compare", "e.toml") as process:
        while rounds(tmp_path) < 4 or daemon not in names(process.pid):
            assert process.poll() is None
            time.sleep(0.05)
        (victim,) = [pid for pid in descendants(process.pid) if psutil.Process(pid).name() == daemon]
        os.kill(victim, signal.SIGKILL)
        assert process.wait(HANG) == 0
    assert content(tmp_path / "runs") == content(tmp_path / "runs-undisturbed")
    assert not list(temporary.glob("fedsam-ray-*"))


def run_id(folder: Path) -> str:
    """The only run."""
    with Results.open(folder / "runs", create=False) as results:
        (run,) = results.runs()
    return run.id
