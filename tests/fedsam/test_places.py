"""Where commands keep what they share, in containers too: no home directory, or one that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedsam.config import ConfigError
from fedsam.data import datasets
from fedsam.data.datasets import DataError, data_folder
from fedsam.grid import ray_start
from fedsam.places import cache_folder

VARIABLES = ("FEDSAM_HOME", "XDG_CACHE_HOME", "FEDSAM_DATA", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that choose a place is set."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry among the users, and without HOME."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)


def test_the_folder_is_that_of_fedsam_then_of_xdg_then_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == data_folder() == tmp_path / ".cache" / "fedsam"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == data_folder() == Path("/xdg/fedsam")
    monkeypatch.setenv("FEDSAM_HOME", "/own")
    assert cache_folder() == data_folder() == Path("/own")
    monkeypatch.setenv("FEDSAM_DATA", "/data")
    assert (cache_folder(), data_folder(), data_folder(Path("/root"))) == (Path("/own"), Path("/data"), Path("/root"))


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_variable_to_set_is_named_where_files_are_needed() -> None:
    with pytest.raises(ConfigError, match="FEDSAM_HOME: must be set"):
        cache_folder()
    with pytest.raises(DataError, match="FEDSAM_HOME: must be set"):
        datasets.load("cifar10")
    assert datasets.load("digits").name == datasets.load("cifar10", fallback="digits").name == "digits"


@pytest.mark.usefixtures("homeless")
def test_without_a_home_a_private_ray_has_a_token_of_its_own() -> None:
    ray_start.set_environment(private=True)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


@pytest.mark.parametrize("refused", ["mkdir", "link"])
def test_where_no_token_can_be_kept_a_private_ray_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: str) -> None:
    def refuse(*args: object, **others: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setenv("FEDSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(*(Path, "mkdir") if refused == "mkdir" else (os, "link"), refuse)
    ray_start.set_environment(private=True)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_else_commands_share_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDSAM_HOME", str(tmp_path))
    ray_start.set_environment(private=True)
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert (path, path.stat().st_mode & 0o777) == (tmp_path / "ray-token", 0o600)
    token = path.read_text()
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    ray_start.set_environment(private=True)
    assert path.read_text() == token
