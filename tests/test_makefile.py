"""What `make` says on a machine that lacks something."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make setup` reads, and a folder `bin` in it with the programs that it calls, Python aside."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("make", "sh", "sed", "rm", "touch"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def make(checkout: Path, python: str) -> str:
    """What `make setup` says where `python3` is this script; it must fail and leave no environment."""
    program = checkout / "bin" / "python3"
    program.write_text(f"#!{shutil.which('sh')}\n{python}\n")
    program.chmod(0o755)
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout)}
    done = subprocess.run(["make", "setup"], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert not (checkout / ".venv").exists()
    return done.stderr


def test_a_python_of_another_version_is_named_with_those_that_are_needed(checkout: Path) -> None:
    assert "make: Python 3.11 to 3.14 is needed; python3, python3.14," in make(checkout, "exit 1")


def test_a_python_without_venv_is_told_what_to_install(checkout: Path) -> None:
    said = make(checkout, 'case "$1" in -c) exit 0;; --version) echo Python 3.12.1;; *) exit 1;; esac')
    assert "make: python3 cannot make a virtual environment; on Debian and Ubuntu install its package python3-venv" in said
