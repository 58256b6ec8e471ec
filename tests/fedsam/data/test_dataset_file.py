"""The file that is kept of an official dataset: read in place of the official ones until something changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsam.data import cifar
from fedsam.data.datasets import DataError, Dataset, load
from tests.support.trap import sprung, trap

Reread = Callable[[], bool]


@pytest.fixture
def home(server: Path) -> Path:
    """The cache folder that `server` has set."""
    return Path(os.environ["FEDSAM_HOME"])


@pytest.fixture
def reread(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Reread:
    """Loads CIFAR-10 again; whether its official files were read for that."""
    first, read_file, read = load("cifar10", root), cifar.read, list[Path]()

    def reader(path: Path, md5: str) -> dict[str, Any]:
        read.append(path)
        return read_file(path, md5)

    monkeypatch.setattr(cifar, "read", reader)

    def loaded() -> bool:
        read.clear()
        assert_same(load("cifar10", root), first)
        return bool(read)

    return loaded


def assert_same(one: Dataset, other: Dataset) -> None:
    for part in ("train", "test"):
        mine, others = getattr(one, part), getattr(other, part)
        assert torch.equal(mine.x, others.x) and torch.equal(mine.y, others.y)
        assert mine.x.untyped_storage().nbytes() == mine.x.numel()
        assert mine.x.is_contiguous(memory_format=torch.channels_last)
    names = ("name", "classes", "mean", "std", "augment", "class_names", "clients", "digest", "image")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


def kept(home: Path) -> Path:
    (file,) = (home / "datasets").iterdir()
    return file


def test_official_files_are_read_once(reread: Reread, home: Path) -> None:
    assert not reread()
    assert kept(home).suffix == ".safetensors"


def test_a_changed_official_file_is_verified_again(reread: Reread, root: Path) -> None:
    file = root / "cifar-10-batches-py" / "data_batch_3"
    os.utime(file)
    assert reread()
    assert not reread()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    with pytest.raises(DataError, match="data_batch_3 is corrupt"):
        load("cifar10", root)
    file.write_bytes(content)
    assert reread()


@pytest.mark.parametrize("damage", ["torn", "edited", "other"])
def test_a_damaged_file_is_made_anew(damage: str, reread: Reread, home: Path) -> None:
    file = kept(home)
    content, times = file.read_bytes(), (file.stat().st_atime, file.stat().st_mtime)
    file.write_bytes({"torn": content[:-100], "edited": content[:-1] + b"?", "other": b"{}"}[damage])
    if damage != "edited":
        os.utime(file, times)
    assert reread()
    assert not reread()
    assert file.read_bytes() != content[:-1] + b"?"


def test_without_a_place_to_write_it_goes_without(reread: Reread, home: Path) -> None:
    kept(home).unlink()
    (home / "datasets").rmdir()
    (home / "datasets").write_text("no folder")
    assert reread()
    assert reread()


def test_a_pickle_in_the_place_of_the_kept_file_is_not_executed(reread: Reread, home: Path, tmp_path: Path) -> None:
    kept(home).write_bytes(trap(tmp_path / "marker"))
    assert reread()
    assert not sprung(tmp_path / "marker")
