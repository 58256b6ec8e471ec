"""Folders of private Rays: removed with their owners, also those that were killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsam.grid import ray_start as module
from fedsam.grid.ray_start import OWNER, PREFIX, RayStartError, ray_folder, remove_left_over

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A short path, as Ray needs, which leads to the test's own folder."""

    class Short(str):
        def __len__(self) -> int:
            return 10

    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: Short(tmp_path))
    yield


def owner(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that owns a folder until it is killed."""
    code = f"""
import sys
from fedsam.grid import ray_start as module
module.tempfile.tempdir = {str(tmp_path)!r}
module.tempfile.gettempdir = lambda: type("Short", (str,), {{"__len__": lambda self: 10}})({str(tmp_path)!r})
with module.ray_folder() as folder:
    print(folder, flush=True)
    input()
"""
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_folder_is_there_for_as_long_as_its_owner_and_removed_by_the_next_after_a_kill(tmp_path: Path) -> None:
    with owner(tmp_path) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        (folder / "r").mkdir()
        remove_left_over(tmp_path)
        assert folder.is_dir() and folder.parent == tmp_path
        process.kill()
    assert folder.is_dir()
    with ray_folder() as mine:
        assert not folder.exists() and Path(mine).is_dir()
    assert not list(tmp_path.iterdir())


def test_a_folder_with_the_logs_of_a_ray_that_did_not_come_up_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RayStartError), ray_folder() as folder:
        raise RayStartError("its logs are there")
    with pytest.raises(KeyboardInterrupt), ray_folder() as other:
        raise KeyboardInterrupt
    remove_left_over(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [Path(folder).name] != [Path(other).name]


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}no-owner").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / OWNER).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    remove_left_over(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3 and (elsewhere / OWNER).exists()
