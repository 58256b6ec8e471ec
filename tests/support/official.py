"""Small files in the official formats of CIFAR and Fashion-MNIST, and a server that has them, which stands for the internet."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import struct
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:  # torchvision imports a compiler, which takes seconds, and conftest.py imports this
    from torchvision.datasets import CIFAR10

EACH = 20  # images in one of the files


def md5(path: Path) -> str:
    """The MD5 of a file, as the tables of official files have it."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def rows(seed: int, count: int, size: int) -> np.ndarray:
    """The pixels of the images in the file with this number."""
    return np.random.default_rng(seed).integers(0, 256, (count, size), dtype=np.uint8)


def write_cifar(folder: Path, kind: type[CIFAR10], counts: dict[str, int], key: str) -> dict[str, str]:
    """Files of CIFAR-10 or CIFAR-100 in `folder`, and their MD5."""
    names = [f"thing {i}" for i in range({"CIFAR10": 10, "CIFAR100": 100}[kind.__name__])]
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate(counts.items()):
        batch = {"data": rows(seed, count, 3072), key: [i % 10 for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=3))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}, protocol=3))
    return {path.name: md5(path) for path in folder.iterdir()}


def write_fashion(folder: Path) -> None:
    """Files of Fashion-MNIST in `folder`."""
    from torchvision.datasets import FashionMNIST

    folder.mkdir(parents=True)
    for seed, (name, _) in enumerate(FashionMNIST.resources):
        count = EACH * 6 if name.startswith("train") else EACH
        images = "images" in name
        header = struct.pack(">iiii", 0x803, count, 28, 28) if images else struct.pack(">ii", 0x801, count)
        body = rows(seed, count, 784) if images else np.arange(count, dtype=np.uint8) % 10
        (folder / name).write_bytes(gzip.compress(header + body.tobytes()))


class Handler(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Says nothing of a client that goes before it is answered, as one does that only looks whether there is a server."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A served folder that stands for the internet; torchvision takes the files in it for the official ones."""
    from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

    made = tmp_path / "server"
    made.mkdir()
    http = Server(("127.0.0.1", 0), partial(Handler, directory=str(made)))
    url = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FEDSAM_HOME", str(tmp_path / "home"))  # for what is kept of the files
    for kind, counts, key in (
        (CIFAR10, {name: EACH for name, _ in CIFAR10.train_list + CIFAR10.test_list}, "labels"),
        (CIFAR100, {"train": 5 * EACH, "test": EACH}, "fine_labels"),
    ):
        sums = write_cifar(made / kind.base_folder, kind, counts, key)
        archive = made / kind.filename
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(made / kind.base_folder, arcname=kind.base_folder)
        monkeypatch.setattr(kind, "train_list", [[name, sums[name]] for name, _ in kind.train_list])
        monkeypatch.setattr(kind, "test_list", [[name, sums[name]] for name, _ in kind.test_list])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
        monkeypatch.setattr(kind, "tgz_md5", md5(archive))
        monkeypatch.setattr(kind, "url", f"{url}/{kind.filename}")
    raw = made / "FashionMNIST" / "raw"
    write_fashion(raw)
    monkeypatch.setattr(FashionMNIST, "resources", [(name, md5(raw / name)) for name, _ in FashionMNIST.resources])
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{url}/FashionMNIST/raw/"])
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def root(tmp_path: Path, server: Path) -> Path:
    """A data root with all small files in place."""
    return Path(shutil.copytree(server, tmp_path / "root", ignore=shutil.ignore_patterns("*.tar.gz")))


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no server for CIFAR-10 and CIFAR-100."""
    from torchvision.datasets import CIFAR10, CIFAR100

    for kind in (CIFAR10, CIFAR100):
        monkeypatch.setattr(kind, "url", "file:///nowhere/cifar.tar.gz")
