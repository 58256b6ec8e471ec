"""Datasets: the official files, what happens when they are not there or not official."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from experiments.running import grids
from experiments.running.grids import DatasetCache
from fedsam.config import ConfigError, parse
from fedsam.data import dataset_file, datasets, download
from fedsam.data.augmentation import AUGMENTATIONS, normalize
from fedsam.data.cifar import ArrayUnpickler
from fedsam.data.datasets import DataError, load
from tests.support.official import EACH, md5, offline, rows
from tests.support.trap import sprung, trap

SMALL = {"cifar10": (10, (3, 32, 32), 5), "cifar100": (100, (3, 32, 32), 5), "fashion_mnist": (10, (1, 28, 28), 6)}


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def assert_small(dataset: datasets.Dataset) -> None:
    classes, image, files = SMALL[dataset.name]
    assert (dataset.classes, dataset.image) == (classes, image)
    assert dataset.train.x.shape == (files * EACH, *image)
    assert dataset.test.x.shape == (EACH, *image)
    for images in (dataset.train, dataset.test):
        assert (images.x.dtype, images.y.dtype) == (torch.uint8, torch.int64)
        assert images.y.shape == images.x.shape[:1]
        assert images.x.untyped_storage().nbytes() == images.x.numel()
        assert images.x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", SMALL)
def test_reads_official_formats(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "download", lambda *_: pytest.fail("nothing is missing"))
    dataset = load(name, root)
    assert_small(dataset)
    size = int(np.prod(dataset.image))
    first = rows(0, dataset.train.x.shape[0] if name != "cifar10" else EACH, size)
    assert torch.equal(dataset.train.x[: len(first)].reshape(-1, size), torch.from_numpy(first))
    assert dataset.test.y.tolist() == [i % 10 for i in range(EACH)]


@pytest.mark.parametrize("name", SMALL)
def test_actors_share_the_images_in_the_same_order_in_memory(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, dataset, made = list[pickle.PickleBuffer](), load(name, root), list[datasets.Dataset]()
    sent = pickle.dumps(grids._numpy(dataset), protocol=5, buffer_callback=buffers.append)
    assert len(sent) < 10_000  # the images are in the buffers, which Ray maps and does not copy
    monkeypatch.setattr(grids.client_app, "make", made.append)
    grids.load_clients(pickle.loads(sent, buffers=buffers), [])
    for mine, others in ((made[0].train, dataset.train), (made[0].test, dataset.test)):
        assert torch.equal(mine.x, others.x)
        assert torch.equal(mine.y, others.y)
        assert mine.x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", SMALL)
def test_downloads_what_is_missing(name: str, server: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "new" / "root"
    assert_small(load(name, place))
    assert_small(load(name, place))
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == f"{name}: downloading to {place}\n"
    assert not list(place.glob(".download-*"))


def test_download_leaves_present_files_alone(server: Path, root: Path) -> None:
    folder = root / CIFAR10.base_folder
    before = (folder / "data_batch_1").stat()
    (folder / "data_batch_3").unlink()
    assert_small(load("cifar10", root))
    after = (folder / "data_batch_1").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_2"),
        ("cifar10", "cifar-10-batches-py/batches.meta"),
        ("cifar100", "cifar-100-python/train"),
        ("fashion_mnist", "FashionMNIST/raw/t10k-images-idx3-ubyte.gz"),
    ],
)
@pytest.mark.parametrize("harm", ["truncated", "changed", "empty"])
def test_corrupt_files_are_named_and_kept(name: str, file: str, harm: str, root: Path) -> None:
    path, blob = root / file, (root / file).read_bytes()
    spoiled = {"truncated": blob[:-100], "changed": blob[:-1] + bytes([blob[-1] ^ 1]), "empty": b""}[harm]
    path.write_bytes(spoiled)
    with pytest.raises(DataError, match=f"{name}: {path} is corrupt or truncated .*delete it to have it downloaded again"):
        load(name, root)
    assert path.read_bytes() == spoiled


@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
@pytest.mark.parametrize("known", [False, True])
def test_a_pickle_that_calls_something_is_not_executed(
    name: str, known: bool, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where its MD5 is wrong, nor where it is the official one: the reader reads arrays alone."""
    path = root / CIFAR10.base_folder / name
    path.write_bytes(trap(tmp_path / "marker", np.zeros(3)))
    if known:
        official = [[file, md5(path) if file == name else before] for file, before in CIFAR10.train_list]
        monkeypatch.setattr(CIFAR10, "train_list", official)
        monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, **({"md5": md5(path)} if name == "batches.meta" else {})})
    why = r"is refused: it asks for (builtins|_?io)\.open, and only NumPy arrays are read" if known else "is corrupt or truncated"
    with pytest.raises(DataError, match=f"{path} {why}"):
        load("cifar10", root)
    assert not sprung(tmp_path / "marker")


def test_a_file_that_is_changed_between_check_and_reading_is_not_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, state = root / CIFAR10.base_folder / "data_batch_3", dataset_file.state

    def swapped(*arguments: Any) -> Any:
        path.write_bytes(trap(tmp_path / "marker"))
        return state(*arguments)

    monkeypatch.setattr(dataset_file, "state", swapped)
    with pytest.raises(DataError, match=f"{path} is not the official file any more"):
        load("cifar10", root)
    assert not sprung(tmp_path / "marker")


@pytest.mark.parametrize("blob", [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n(S'x'\ntR."])
def test_the_reader_of_arrays_calls_nothing(blob: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"it asks for .*, and only NumPy arrays are read"):
        ArrayUnpickler(io.BytesIO(blob)).load()


def test_missing_file_offline(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    (root / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError) as caught:
        load("cifar10", root)
    message = str(caught.value)
    assert message.startswith(f"cifar10: cifar-10-batches-py/data_batch_4 is missing below {root} and cannot be downloaded there (")
    for way in ("Put the folder cifar-10-batches-py/", "--data-root", "FEDSAM_DATA", 'data.dataset = "digits"'):
        assert way in message


def test_download_of_wrong_file(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (server / CIFAR10.filename).write_bytes(b"<html>captive portal</html>")
    with pytest.raises(DataError, match="cannot be downloaded there"):
        load("cifar10", tmp_path / "root")
    assert not list((tmp_path / "root").iterdir())


def test_silent_server_is_given_up(server: Path, tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "url", f"{silent}/{CIFAR10.filename}")
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.2)
    with pytest.raises(DataError, match=r"cannot be downloaded there \(.*timed out"):
        load("cifar10", tmp_path / "root")
    assert socket.getdefaulttimeout() is None


def test_a_search_for_a_name_that_does_not_end_is_given_up(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over, asked = Event(), list[object]()

    def search(*place: object, **_: object) -> list[object]:
        asked.append(place[0])
        over.wait()
        raise socket.gaierror("no name server")

    monkeypatch.setattr(CIFAR10, "url", f"http://no.such.host.invalid/{CIFAR10.filename}")
    monkeypatch.setattr(socket, "getaddrinfo", search)
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.2)
    with pytest.raises(DataError, match=r"cannot be downloaded there \(timed out: no answer from http://no\.such\.host"):
        load("cifar10", tmp_path / "root")
    over.set()
    assert asked == ["no.such.host.invalid"]


def test_a_server_that_falls_silent_is_given_up(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SILENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as connections:

        def begin() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    connection = connections.enter_context(listener.accept()[0])
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 9999\r\n\r\nthe first bytes")

        Thread(target=begin, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{listener.getsockname()[1]}/{CIFAR10.filename}")
        with pytest.raises(DataError, match=r"cannot be downloaded there \(.*timed out"):
            load("cifar10", tmp_path / "root")
        listener.shutdown(socket.SHUT_RDWR)
    assert not list((tmp_path / "root").iterdir())


def test_another_server_is_asked_where_one_does_not_answer(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    monkeypatch.setattr(FashionMNIST, "mirrors", [refusing, *FashionMNIST.mirrors])
    assert_small(load("fashion_mnist", tmp_path / "root"))


@pytest.mark.parametrize("fallback", [None, "digits"])
def test_a_sweep_tries_once(fallback: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, cache = list[str](), DatasetCache()
    monkeypatch.setattr(datasets, "download", lambda *_: tried.append("once") or (_ for _ in ()).throw(OSError("no network")))
    for clients in (1, 2, 3):
        experiment = parse({"data": {"root": str(tmp_path), "fallback": fallback, "clients": clients}})
        if fallback:
            assert cache.get(experiment).name == fallback
        else:
            with pytest.raises(DataError, match="no network"):
                cache.get(experiment)
    assert tried == ["once"]


def test_root_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cifar10: .*/file/cifar-10-batches-py/data_batch_1 cannot be read \(Not a directory\)"):
        load("cifar10", tmp_path / "file")


def test_file_that_cannot_be_read(root: Path) -> None:
    path = root / "cifar-10-batches-py" / "data_batch_5"
    path.unlink()
    path.symlink_to(path)  # refused to every user, root included
    with pytest.raises(DataError, match=rf"cifar10: {path} cannot be read \(Too many levels of symbolic links\)"):
        load("cifar10", root)


def test_root_that_cannot_be_written(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "root"))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(DataError, match=rf"missing below {tmp_path}/root and cannot be downloaded there \(.*Permission denied"):
        load("cifar10", tmp_path / "root")


@pytest.mark.parametrize("how", ["argument", "environment", "home"])
def test_root_is_argument_then_environment_then_cache(how: str, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FEDSAM_HOME")
    monkeypatch.setenv("FEDSAM_DATA", "" if how == "home" else str(tmp_path / "environment"))
    load("cifar100", tmp_path / "argument" if how == "argument" else None)
    places = {"argument": tmp_path / "argument", "environment": tmp_path / "environment", "home": tmp_path / "home/.cache/fedsam"}
    assert {place for place, folder in places.items() if (folder / CIFAR100.base_folder).is_dir()} == {how}


def test_fallback_is_loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    offline(monkeypatch)
    with pytest.raises(DataError):
        load("cifar10", tmp_path)
    capsys.readouterr()
    assert load("cifar10", tmp_path, fallback="digits").name == "digits"
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("WARNING: using dataset 'digits' instead of 'cifar10', which cannot be had: cifar10: cifar-10-batches-py/")


def test_fallback_is_not_used_without_need(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("cifar10", root, fallback="digits").name == "cifar10"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "fallback", "key"), [("cifar", None, "data.dataset: 'cifar'"), ("digits", "mnist", "data.fallback: 'mnist'")]
)
def test_unknown_names(name: str, fallback: str | None, key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{key} is not known.*; allowed: cifar10, cifar100, digits, fashion_mnist"):
        load(name, tmp_path, fallback)


@pytest.mark.slow
def test_real_cifar10(cifar_root: Path) -> None:
    dataset = load("cifar10", cifar_root)
    assert dataset.train.x.shape == (50_000, 3, 32, 32)
    assert dataset.test.x.shape == (10_000, 3, 32, 32)
    assert dataset.train.y.bincount().tolist() == [5000] * 10
    assert dataset.test.y.bincount().tolist() == [1000] * 10
    assert dataset.train.y[:5].tolist() == [6, 9, 9, 4, 1]
    assert dataset.train.x[0, :, 0, 0].tolist() == [59, 62, 63]
    assert_standardized(dataset)


def test_digits(tmp_path: Path) -> None:
    dataset = load("digits", tmp_path / "not made")
    assert not (tmp_path / "not made").exists()
    assert (len(dataset.train.y), len(dataset.test.y), dataset.image) == (1442, 355, (1, 32, 32))
    assert (dataset.test.y.bincount() * 5 - dataset.train.y.bincount() - dataset.test.y.bincount()).abs().max() <= 5  # stratified
    assert hashlib.md5(dataset.train.x.numpy().tobytes()).hexdigest() == "2a94e3c553627b060779d02e0618c0b1"
    assert_standardized(dataset)


def assert_standardized(dataset: datasets.Dataset) -> None:
    x = normalize(dataset.train.x[::5], dataset.mean, dataset.std)
    assert x.mean((0, 2, 3)).abs().max() < 0.02
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.02


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_default_augmentation_is_known(name: str, root: Path) -> None:
    dataset = load(name, root)
    assert set(dataset.augment) <= set(AUGMENTATIONS)
    assert len(dataset.mean) == len(dataset.std) == dataset.image[0]
