"""The datasets of fedsam, read from official files whose MD5 is checked, and the loader of all datasets.

Legend: `x: (N, C, H, W)` images, `y: (N,)` labels.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedsam import plugins
from fedsam.config import Component, ConfigError
from fedsam.data import cifar, dataset_file, own_data
from fedsam.data.dataset import DataError, Dataset, Images
from fedsam.data.download import download
from fedsam.documentation import documented
from fedsam.places import cache_folder
from fedsam.wording import nearest

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

__all__ = ["DATASETS", "DataError", "Dataset", "Images", "check", "is_official", "is_own", "load"]


def load(dataset: str | Component, root: Path | None = None, fallback: str | None = None) -> Dataset:
    """Load a dataset: one of DATASETS, downloaded if its files are missing, or a custom one, as `fedsam.data.own_data` reads it.

    Its images have the channels last in memory.

    Args:
        dataset: Its name, or its name and settings.
        root: Folder of the official files; default: as of `data_folder`.
        fallback: One of DATASETS to use when official files are not available; a line on stderr says so, and the result has its `name`.
            Custom data have no fallback.

    Raises:
        ConfigError: A name is not known, a setting is not allowed, or custom data cannot be used.
        DataError: Official files are missing and cannot be downloaded, or cannot be read, or are not the official ones.
    """
    component = Component(name=dataset) if isinstance(dataset, str) else dataset
    check(component, fallback)
    if is_own(component):
        return own_data.load(component).channels_last()
    try:
        return DATASETS[component.name](root).channels_last()
    except DataError as error:
        if fallback is None:
            raise
        print(f"WARNING: using dataset {fallback!r} instead of {component.name!r}, which cannot be had: {error}", file=sys.stderr)
    return DATASETS[fallback](root).channels_last()


def data_folder(root: Path | None = None) -> Path:
    """The folder of official files; default: $FEDSAM_DATA, else `cache_folder`. Raises `DataError` where there is no home directory."""
    given = root or os.environ.get("FEDSAM_DATA")
    try:
        return Path(given).expanduser() if given else cache_folder()
    except (RuntimeError, ConfigError) as error:
        raise DataError(str(error)) from None


def is_own(component: Component) -> bool:
    """Whether a dataset is a custom one, not of DATASETS."""
    return component.name not in DATASETS


def check(component: Component, fallback: str | None = None) -> None:
    """Check the setting of a dataset without reading the data. Raises `ConfigError` as `load`."""
    if fallback is not None and fallback not in DATASETS:
        raise ConfigError(f"data.fallback: {fallback!r} is not known{nearest(fallback, list(DATASETS))}; allowed: {_listed(DATASETS)}")
    if not is_own(component):
        if component.settings:
            raise ConfigError(f"data.dataset.{next(iter(component.settings))}: unknown key; {component.name} has no settings")
        return
    registered = plugins.entry_points("datasets")
    if ":" not in component.name and component.name not in registered:
        known = [*DATASETS, *registered]
        forms = ", ".join([*(f"{form}:PATH" for form in own_data.FORMATS), "module:factory"])
        raise ConfigError(
            f"data.dataset: {component.name!r} is not known{nearest(component.name, known)}; allowed: {_listed(known)}, {forms}"
        )
    own_data.check(component)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


@documented(source="Krizhevsky, 2009, Learning multiple layers of features from tiny images.")
def cifar10(root: Path | None) -> Dataset:
    """60,000 colour photographs, 32 x 32, of 10 classes, 10,000 of them for testing."""
    return _cifar(root, "cifar10", "CIFAR10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


@documented(source="Krizhevsky, 2009, Learning multiple layers of features from tiny images.")
def cifar100(root: Path | None) -> Dataset:
    """60,000 colour photographs, 32 x 32, of 100 classes (the fine labels), 10,000 of them for testing."""
    return _cifar(root, "cifar100", "CIFAR100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@documented(source="Xiao et al., 2017, arXiv:1708.07747.")
def fashion_mnist(root: Path | None) -> Dataset:
    """70,000 grey pictures of clothes, 28 x 28, of 10 classes, 10,000 of them for testing."""
    from torchvision.datasets import FashionMNIST

    root = data_folder(root)
    files = {f"FashionMNIST/raw/{name}": md5 for name, md5 in FashionMNIST.resources}
    servers = [f"{mirror}{FashionMNIST.resources[0][0]}" for mirror in FashionMNIST.mirrors]
    _obtain(root, "fashion_mnist", files, servers, lambda folder: FashionMNIST(folder, download=True))
    # Read from the compressed files because those are the ones with an official MD5.
    train_x, train_y, test_x, test_y = (_idx(gzip.decompress((root / name).read_bytes())) for name in files)
    train, test = Images(train_x.unsqueeze(1), train_y.long()), Images(test_x.unsqueeze(1), test_y.long())
    names, hashed = tuple(FashionMNIST.classes), _hash_of(files.values())
    return Dataset("fashion_mnist", train, test, 10, (0.2860,), (0.3530,), ("crop", "flip"), names, files=hashed)


@documented(source="Alpaydin and Kaynak, 1998, UCI Optical Recognition of Handwritten Digits (its test part).")
def digits(root: Path | None) -> Dataset:
    """1,797 handwritten digits that come with scikit-learn, 8 x 8 grey pixels scaled to 32 x 32; 355 of them for testing.

    The test set is every fifth example of each class. It needs no files, so `root` is ignored. Not augmented: a mirrored digit is no digit.
    """
    package = find_spec("sklearn")  # found but not imported, which takes seconds
    assert package is not None and package.origin is not None
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    small, labels = table[:, :-1], table[:, -1]
    # Exact in float32: grey levels are 0..16 and the weights of a fourfold scaling are eighths. So every machine rounds alike.
    grey = torch.from_numpy(small).float().view(-1, 1, 8, 8) * (255 / 16)
    x = F.interpolate(grey, scale_factor=4, mode="bilinear", align_corners=False).round().to(torch.uint8)
    y = torch.from_numpy(labels).long()
    test = (F.one_hot(y).cumsum(0).gather(1, y[:, None]) % 5 == 0)[:, 0]
    hashed = _hash_of([hashlib.md5(file.read_bytes()).hexdigest()])
    return Dataset("digits", Images(x[~test], y[~test]), Images(x[test], y[test]), 10, (0.3051,), (0.3238,), (), files=hashed)


DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "fashion_mnist": fashion_mnist,
    "digits": digits,
}


def _cifar(given: Path | None, name: str, reader: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
    """CIFAR-10 or CIFAR-100, whose files are in a class of torchvision; they are read unless they were read before."""
    root = data_folder(given)
    if (known := dataset_file.find(name, root)) is not None:
        return known
    import torchvision.datasets

    kind: type[CIFAR10] = getattr(torchvision.datasets, reader)
    listed = [*kind.train_list, *kind.test_list]
    files = {f"{kind.base_folder}/{file}": md5 for file, md5 in [*listed, (kind.meta["filename"], kind.meta["md5"])]}
    _obtain(root, name, files, [kind.url], partial(cifar.fetch, kind))
    read = dataset_file.state(root, files)
    *parts, meta = [cifar.read(root / file, md5) for file, md5 in files.items()]
    x = torch.from_numpy(np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32))
    y = torch.tensor([label for part in parts for label in part["labels" if "labels" in part else "fine_labels"]])
    names = tuple(meta[kind.meta["key"]])
    split = len(y) * 5 // 6  # 50,000 of 60,000
    # Clones, because a view drags all 60,000 images along when it is sent to another process.
    train, test = (Images(x[part].clone(), y[part].clone()) for part in (slice(split), slice(split, None)))
    dataset = Dataset(name, train, test, len(names), mean, std, ("crop", "flip"), names, files=_hash_of(files.values()))
    dataset_file.keep(dataset, root, read)
    return dataset


def _hash_of(md5s: Iterable[str]) -> str:
    """One hash of files whose MD5 are known."""
    return f"md5:{hashlib.md5(' '.join(md5s).encode()).hexdigest()[:12]}"


def _idx(blob: bytes) -> Tensor:
    """An array of bytes in the IDX format: two zeros, type 8, the number of sizes, the sizes (big-endian), the values."""
    sizes = np.frombuffer(blob, ">i4", count=blob[3], offset=4)
    return torch.from_numpy(np.frombuffer(blob, np.uint8, offset=4 + 4 * blob[3]).reshape(sizes).copy())


def _obtain(root: Path, name: str, files: Mapping[str, str], servers: Sequence[str], fetch: Callable[[Path], object]) -> None:
    """Check that `files` (path below root -> MD5) are the official ones, and download missing ones; other arguments as of `download`.

    Raises:
        DataError: A file is corrupt or cannot be read, or is missing and cannot be downloaded.
    """
    missing = [path for path, md5 in files.items() if not is_official(root / path, md5, name)]
    if not missing:
        return
    try:
        download(root, name, missing, servers, fetch)
    # torchvision raises RuntimeError for a wrong MD5; OSError covers network, time-out and disk.
    except (OSError, RuntimeError, HTTPException) as error:
        folder = Path(missing[0]).parent.as_posix()
        raise DataError(
            f"{name}: {missing[0]} is missing below {root} and cannot be downloaded there ({error}). Put the folder {folder}/ with the "
            f'official files below {root}, or set --data-root, FEDSAM_DATA or FEDSAM_HOME to where it is, or use data.dataset = "digits", '
            "which needs no files."
        ) from error


def is_official(path: Path, md5: str, name: str) -> bool:
    """Whether the file exists. Raises `DataError` if it exists but is not the official one, or cannot be read."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataError(f"{name}: {path} cannot be read ({error.strerror}); set --data-root or FEDSAM_DATA to a folder that can") from error
    if found != md5:
        raise DataError(f"{name}: {path} is corrupt or truncated (MD5 {found}, official {md5}); delete it to have it downloaded again")
    return True
