"""Provenance names what is needed to run something again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from fedsam.results import provenance as module
from fedsam.results.provenance import provenance


def test_provenance_names_code_device_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/fedsam", "run", "a file.toml"])
    origin = provenance()
    assert origin.command == "fedsam run 'a file.toml'"
    assert {"python", "torch", "flwr", "ray", "fedsam"} <= set(origin.versions)
    assert "CPUs" in origin.device
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "pass"])
    assert provenance().command == "python -c pass"


def test_commit_is_that_of_the_checkout_that_tracks_the_file(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    tracked, untracked = tmp_path / "tracked.py", tmp_path / "untracked.py"
    tracked.write_text("1")
    untracked.write_text("1")
    assert module._git_commit(tracked) == "unknown"
    git("init")
    git("add", "tracked.py")
    git("commit", "-m", "one")
    assert module._git_commit(tracked) == git("rev-parse", "HEAD")
    assert module._git_commit(untracked) == "unknown"
    tracked.write_text("2")
    assert module._git_commit(tracked) == f"{git('rev-parse', 'HEAD')}-dirty"


def test_without_a_gpu_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert "CPUs" in provenance(gpu=True).device
