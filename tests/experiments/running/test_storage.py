"""Runs whose results file is locked, and disks that are full: nothing that was written is lost, and nothing fails without a sentence."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from safetensors.torch import load_file, save_file

from experiments import Experiment, run
from experiments.callbacks.progress import Callback
from experiments.cli.output import exit_on_failure
from experiments.running import space
from experiments.running.scheduler import run_all
from fedsam.config import parse
from fedsam.overrides import override
from fedsam.results import model_files, write_queue
from fedsam.results.rows import Row
from fedsam.results.store import Results
from fedsam.results.write_queue import StorageError

SMALL: dict[str, Any] = {
    "rounds": 4,
    "model": "lenet5",
    "data": {"dataset": "digits", "clients": 4, "partition": "iid", "examples": 100},
    "client": {"batch_size": 8},
    "server": {"participation": 2},
    "compute": {"grid": "inline"},
    "measure": {"union": False},
}


def experiment(folder: Path, **changes: Any) -> Experiment:
    return parse(override(SMALL, {"runs_dir": str(folder)} | changes))


class Told(Callback):
    """Keeps warnings, and does something after each round."""

    def __init__(self, after: Callable[[int], object] = lambda round: None) -> None:
        self.said, self.after = list[str](), after

    def warn(self, run_id: str, text: str) -> None:
        self.said.append(text)

    def round(self, row: Row) -> None:
        self.after(row.round)


def test_a_file_that_is_locked_during_a_run_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "PATIENCE_SECONDS", 0.02)
    Results.open(tmp_path).close()
    other = sqlite3.connect(tmp_path / "fedsam.db", isolation_level=None)
    told = Told(lambda round: other.execute({1: "BEGIN IMMEDIATE", 3: "ROLLBACK"}.get(round, "SELECT 1")))
    result = run(experiment(tmp_path), told)
    other.close()
    assert ["training goes on" in text for text in told.said] == [True, False]
    with Results.open(tmp_path) as results:
        assert [(one.status, results.rounds(one.id)) for one in results.runs()] == [("finished", list(result.rows))]


def refusing(folder: Path) -> Callable[..., None]:
    """As `save_file` where the disk of a folder is full."""

    def save(tensors: Any, path: Path, **options: Any) -> None:
        if path.is_relative_to(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, **options)

    return save


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "RETRY_SECONDS", 0.0)


def test_a_model_for_which_there_is_no_room_is_written_where_there_is(
    tmp_path: Path, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "save_file", refusing(tmp_path / "runs"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(model_files.tempfile, "tempdir", str(tmp_path / "temp"))
    told = Told()
    result = run(experiment(tmp_path / "runs", rounds=1), told)
    (said,) = told.said
    (other,) = (tmp_path / "temp").glob("*/model.safetensors")
    assert f"model.safetensors cannot be written ([Errno 28] No space left on device): the model is in {other}" in said
    assert load_file(other).keys() == result.model.state_dict().keys()
    with Results.open(tmp_path / "runs") as results:
        assert [one.status for one in results.runs()] == ["finished"]


def test_a_model_for_which_there_is_no_room_anywhere_ends_the_run_with_its_own_exit_code_and_all_rounds(
    tmp_path: Path, hurried: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_files, "save_file", refusing(Path("/")))
    outcomes = run_all([experiment(tmp_path, rounds=2)], Callback())
    assert [(outcome.status, outcome.storage) for outcome in outcomes] == [("failed", True)]
    with Results.open(tmp_path) as results:
        (one,) = results.runs()
        assert (one.status, len(results.rounds(one.id))) == ("failed", 2)
        assert "cannot be written ([Errno 28] No space left on device), nor can" in str(one.error)
    with pytest.raises(typer.Exit) as ended:
        exit_on_failure(outcomes)
    assert ended.value.exit_code == 5
    assert "free some space, the rounds are kept" in capsys.readouterr().err


def test_a_real_lack_of_room_leaves_no_part_of_a_model_and_the_one_before(tmp_path: Path) -> None:
    """Of a process that may write small files only, for which the system has another error than for a full disk."""
    code = f"""
import resource
from pathlib import Path
from torch import nn
from fedsam.results import model_files
model_files.RETRY_SECONDS = 0.0
path = Path({str(tmp_path)!r}) / "run" / "model.safetensors"
model_files.save_model(nn.Linear(2, 2), path, (1, 1, 2), 2)
before = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    model_files.keep_model(nn.Linear(100, 100), path, (1, 1, 100), 100, print)
except model_files.StorageError as error:
    print(error)
assert path.read_bytes() == before
"""
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3]), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "model.safetensors cannot be written (" in done.stdout and "File too large" in done.stdout
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.safetensors"]


@pytest.mark.parametrize(("free", "ends"), [(0, True), (2**26, False), (2**40, False)])
def test_space_is_looked_at_before_the_first_round(free: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    told = Told()
    if ends:
        with pytest.raises(StorageError, match=r"has 0 B of space left, and the models of this run take .*; free some space"):
            run(experiment(tmp_path), told)
    else:
        run(experiment(tmp_path, rounds=1, **{"checkpoint.every": 1}), told)
    assert ["little is left" in text for text in told.said] == ([True] if free == 2**26 else [])
    with Results.open(tmp_path) as results:
        (one,) = results.runs()
        assert (one.status, len(results.rounds(one.id))) == (("failed", 0) if ends else ("finished", 1))
