"""`fedsam new`: the generated project, as a stranger runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.cli.commands.new import FILES, write
from fedsam import plugins
from fedsam.config import ConfigError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, written by the command."""
    folder = tmp_path_factory.mktemp("elsewhere")
    done = called(folder, ["experiments.cli.main", "new", "project"])
    assert done.returncode == 0, done.stderr
    assert "fedsam run config.toml" in done.stdout
    return folder / "project"


def called(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A module of this environment, run in the folder by somebody who has nothing at home."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    environment = {**kept, "HOME": str(home), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False)


def test_it_runs(project: Path) -> None:
    assert sorted(path.name for path in project.iterdir()) == sorted(FILES)
    done = called(project, ["experiments.cli.main", "run", "config.toml", "--quiet", "-o", "rounds=2"])
    assert done.returncode == 0, done.stderr
    assert "mine:HalfSAM" in done.stdout
    assert list(project.glob("runs/reports/*/report.html"))


Check = Callable[[str], tuple[int, str]]


@pytest.fixture
def checked(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Check]:
    """`fedsam check` of a component, in this process and in the project's folder; its exit code and what it says."""
    monkeypatch.chdir(project)

    def check(component: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main.main(["check", component, "--no-ray"])
        return int(str(stopped.value.code)), capsys.readouterr().out

    yield check
    monkeypatch.undo()
    plugins.receive(())
    plugins.search()


def test_the_command_checks_what_its_tests_check(checked: Check) -> None:
    code, said = checked("mine:ClippedMomentum")
    assert code == 0, said
    assert "failed" not in said
    assert "left out      one and two actors give the model of this process" in said


@pytest.mark.slow
@pytest.mark.ray
def test_its_optimizer_gives_the_same_on_actors(project: Path) -> None:
    done = called(project, ["experiments.cli.main", "check", "mine:HalfSAM"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok            one and two actors give the model of this process" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_its_tests_pass(project: Path) -> None:
    done = called(project, ["pytest", "-q", "-p", "no:cacheprovider"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_component_is_exit_code_1(project: Path, checked: Check) -> None:
    source = (project / "mine.py").read_text()
    (project / "broken.py").write_text(source.replace("self.rho * here", "(self.rho + 0.01) * here"))
    code, said = checked("broken:HalfSAM")
    assert code == 1, said
    assert "failed        with `reduces_to_base` it is its base optimizer" in said


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not allowed: it is not empty"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ConfigError, match=r"cannot be written \(Not a directory\)"):
        write(tmp_path / "notes.txt" / "project")
