"""The type `Dataset`: labelled images as uint8 tensors, also made from arrays of any common shape and type.

Legend: `x: (N, C, H, W)` images, `y: (N,)` labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


class DataError(RuntimeError):
    """A dataset is not available; the message names the file, the folder and how to supply it."""


@dataclass(frozen=True)
class Images:
    """Labelled images: `x` uint8 (N, C, H, W), `y` int64 (N,)."""

    x: Tensor
    y: Tensor

    def select(self, index: Tensor) -> Images:
        """Copies of the images at an index (M,), in the same order of axes in memory."""
        last = self.x.movedim(1, -1)
        # Whole images are copied: indexing is five times slower.
        x = last.index_select(0, index).movedim(-1, 1) if last.is_contiguous() else self.x.index_select(0, index)
        return Images(x, self.y.index_select(0, index))


@dataclass(frozen=True)
class Dataset:
    """A classification problem.

    Attributes:
        name: As in the setting `data.dataset`.
        train: Training examples.
        test: Test examples.
        classes: Number of classes; labels are 0 to `classes` - 1.
        mean: Mean of the training images per channel, pixels scaled to 0..1.
        std: Standard deviation, likewise.
        augment: Default training augmentation, names of `fedsam.data.augmentation.AUGMENTATIONS`.
        class_names: One for each class; empty where classes have only numbers.
        clients: The client (N,) of each training example, 0 to n - 1, each at least once; None where it is unknown.
        digest: Hash of the contents; empty for official files.
        files: Hash of the official files; empty for others.
    """

    name: str
    train: Images
    test: Images
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    clients: Tensor | None = None
    digest: str = ""
    files: str = ""

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    @classmethod
    def from_arrays(
        cls,
        x_train: ArrayLike,
        y_train: ArrayLike,
        x_test: ArrayLike,
        y_test: ArrayLike,
        *,
        class_names: Sequence[str] | None = None,
        client_train: ArrayLike | None = None,
        name: str = "arrays",
        augment: tuple[str, ...] = (),
    ) -> Self:
        """A dataset of images (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels, and labels that are whole numbers or texts.

        Pixels are whole numbers 0 to 255, or floats 0 to 1, which are rounded to 256 levels. An alpha channel is dropped, the colours
        below it are kept as they are; where some images are grey and others RGB, all become RGB. Where the second axis and the last could
        both be the channels, it is the one that leaves square images, else the last. Mean and standard deviation are those of the
        training images, rounded to four digits.

        >>> grey = np.linspace(0, 1, 4 * 8 * 8).reshape(4, 8, 8)
        >>> dataset = Dataset.from_arrays(grey, ["cat", "dog", "cat", "dog"], grey, ["dog", "dog", "cat", "cat"])
        >>> dataset.class_names, dataset.image, dataset.mean, dataset.train.y.tolist()
        (('cat', 'dog'), (1, 8, 8), (0.5,), [0, 1, 0, 1])

        Args:
            class_names: Of the labels 0, 1, ..., or all the labels there are, when they are texts; default: the labels that occur, in
                order, renumbered from 0.
            client_train: The client of each training example, for `data.partition = "natural"`: whole numbers or texts.

        Raises:
            ValueError: An array is not as described; the message names it.
        """
        pixels = _pixels({"x_train": np.asarray(x_train), "x_test": np.asarray(x_test)})
        given = {"y_train": np.asarray(y_train), "y_test": np.asarray(y_test)}
        for which in ("train", "test"):
            _check_length(f"y_{which}", given[f"y_{which}"], f"x_{which}", len(pixels[f"x_{which}"]))
        labels, names, classes = _numbered(given, class_names)
        clients = None if client_train is None else _clients(np.asarray(client_train), len(pixels["x_train"]))
        mean, std = _moments(pixels["x_train"])
        train, test = (
            Images(torch.from_numpy(pixels[f"x_{which}"]), torch.from_numpy(labels[f"y_{which}"])) for which in ("train", "test")
        )
        made = cls(name, train, test, classes, mean, std, augment, names, clients)
        return replace(made, digest=made.content_hash())

    def channels_last(self) -> Self:
        """The same with the channels of the images last in memory, as normalization and convolutions on the CPU are faster on them."""
        train, test = (Images(part.x.contiguous(memory_format=torch.channels_last), part.y) for part in (self.train, self.test))
        return replace(self, train=train, test=test)

    def content_hash(self) -> str:
        """SHA-256 of the arrays and the class names, its first twelve hexadecimal digits."""
        tensors = [self.train.x, self.train.y, self.test.x, self.test.y, *([] if self.clients is None else [self.clients])]
        digest = hashlib.sha256(repr([self.class_names, *(tuple(tensor.shape) for tensor in tensors)]).encode())
        for tensor in tensors:
            digest.update(tensor.contiguous().numpy().data)
        return f"sha256:{digest.hexdigest()[:12]}"


def _pixels(arrays: dict[str, NDArray[Any]]) -> dict[str, Pixels]:
    """The images as contiguous uint8 (N, C, H, W), of one size and number of channels."""
    shaped = {name: _channels_first(array, name) for name, array in arrays.items()}
    fractions = _are_fractions(shaped)
    grey = all(x.shape[1] == 1 for x in shaped.values())
    result = {name: np.ascontiguousarray(_bytes(x[:, :3], fractions)) for name, x in shaped.items()}
    if not grey:
        result = {name: x.repeat(3, axis=1) if x.shape[1] == 1 else x for name, x in result.items()}
    (first, one), *others = result.items()
    for name, other in others:
        if other.shape[2:] != one.shape[2:]:
            sizes = f"{other.shape[2]} x {other.shape[3]}, and those of {first} are {one.shape[2]} x {one.shape[3]}"
            raise ValueError(f"{name}: its images are {sizes}: must be equal")
    return result


def _channels_first(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name}: pixels of type {array.dtype} are not allowed: must be numbers")
    if array.size == 0:
        raise ValueError(f"{name}: is empty, of shape {array.shape}")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4:
        first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
        if first and last:  # grey or RGB images that are 1, 3 or 4 pixels wide, or high
            last = array.shape[1] == array.shape[2] or array.shape[2] != array.shape[3]
        if last:
            return array.transpose(0, 3, 1, 2)
        if first:
            return array
    raise ValueError(f"{name}: shape {array.shape} is not allowed: must be (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels")


def _are_fractions(arrays: dict[str, NDArray[Any]]) -> bool:
    """Whether floats are fractions of full brightness, decided for all arrays together, so that train and test are scaled alike."""
    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    for name, array in arrays.items():
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 255):
            scale = "for example with (x - x.min()) / (x.max() - x.min())"
            raise ValueError(f"{name}: pixels from {low:g} to {high:g} are not allowed: scale them to 0..1 or 0..255, {scale}")
    if all(array.max() <= 1 for array in floats.values()):
        return True
    for name, array in floats.items():
        if not np.array_equal(array, np.rint(array)):
            low, high = array.min(), array.max()
            raise ValueError(f"{name}: broken numbers from {low:g} to {high:g} are not allowed: floats are 0..1, or whole numbers 0..255")
    return False


def _bytes(array: NDArray[Any], fractions: bool) -> Pixels:
    if array.dtype.kind == "b" or (array.dtype.kind == "f" and fractions):
        return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    return array.astype(np.uint8)


def _numbered(
    given: dict[str, NDArray[Any]], class_names: Sequence[str] | None
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...], int]:
    """Labels 0 to K - 1, the names of the classes (empty if they have none), and K."""
    flat = {name: _flat(array, name) for name, array in given.items()}
    if class_names is None:
        if len({array.dtype.kind == "U" for array in flat.values()}) > 1:
            raise ValueError("y_train and y_test: numbers beside texts are not allowed: must be of one type")
        values = np.unique(np.concatenate(list(flat.values())))
        labels = {name: np.searchsorted(values, array).astype(np.int64) for name, array in flat.items()}
        names = tuple(map(str, values.tolist()))
        names = () if names == tuple(map(str, range(len(names)))) else names
        count = len(values)
    else:
        names = tuple(map(str, class_names))
        if len(set(names)) < len(names):
            raise ValueError(f"class_names: {list(names)} is not allowed: must differ")
        labels = {name: _placed(array, names, name) for name, array in flat.items()}
        count = len(names)
    if count < 2:
        raise ValueError(f"y_train: {count} class is not allowed: must be two or more")
    return labels, names, count


def _flat(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype.kind not in "buiU" or array.size != len(array):
        raise ValueError(f"{name}: {array.dtype} of shape {array.shape} is not allowed: must be one whole number or text for each example")
    return array.reshape(-1)


def _placed(labels: NDArray[Any], names: Sequence[str], where: str) -> NDArray[np.int64]:
    """The indices of labels in the list of all classes; whole numbers are indices already."""
    if labels.dtype.kind == "U":
        indices = {name: index for index, name in enumerate(names)}
        unknown = sorted(set(labels.tolist()) - set(indices))
        if unknown:
            raise ValueError(f"{where}: {unknown[0]!r} is not in class_names")
        return np.array([indices[label] for label in labels.tolist()], dtype=np.int64)
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"{where}: labels from {labels.min()} to {labels.max()} are not allowed: class_names has {len(names)}")
    return labels.astype(np.int64)


def _clients(client_train: NDArray[Any], examples: int) -> Tensor:
    """Clients renumbered from 0 in the order of their names."""
    _check_length("client_train", client_train, "x_train", examples)
    return torch.from_numpy(np.unique(_flat(client_train, "client_train"), return_inverse=True)[1].astype(np.int64))


def _check_length(name: str, array: NDArray[Any], images: str, count: int) -> None:
    if array.ndim == 0 or len(array) != count:
        raise ValueError(f"{name}: has {len(array) if array.ndim else 'no'} entries, and {images} has {count}")


def _moments(x: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, from exact sums; a constant channel has a standard deviation of 1."""
    counts = np.zeros((x.shape[1], 256), dtype=np.int64)
    for images in np.array_split(x, -(-len(x) // 1000)):  # bounds the memory: numpy counts in int64
        counts += np.stack([np.bincount(images[:, channel].reshape(-1), minlength=256) for channel in range(x.shape[1])])
    levels, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = (counts * levels).sum(axis=1) / total
    std = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total).round(4)
    return tuple(mean.round(4).tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
