"""The official files of CIFAR-10 and CIFAR-100, which are pickles: read if their MD5 is right, by a reader that calls nothing in them."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsam.data.dataset import DataError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

RECONSTRUCT = np.empty(0).__reduce__()[0]  # what pickles of arrays call
ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,  # in the official files
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,  # in files that NumPy 2 writes
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays, lists, dicts, texts and numbers, and refuses everything else that a pickle can name."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle asks for by name. Raises `UnpicklingError` unless it is of `ALLOWED`."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only NumPy arrays are read")
        return ALLOWED[module, name]


def read(path: Path, md5: str) -> dict[str, Any]:
    """What an official file holds. Raises `DataError` where it is another file."""
    blob = path.read_bytes()  # once: what is checked is what is read
    if hashlib.md5(blob).hexdigest() != md5:
        raise DataError(f"{path} is not the official file any more; delete it to have it downloaded again")
    try:
        found: dict[str, Any] = ArrayUnpickler(io.BytesIO(blob), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is refused: {error}") from None
    return found


def fetch(kind: type[CIFAR10], folder: Path) -> None:
    """Download the archive of a dataset and unpack it. Raises `RuntimeError` where its MD5 is wrong."""
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(kind.url, str(folder), filename=kind.filename, md5=kind.tgz_md5)
