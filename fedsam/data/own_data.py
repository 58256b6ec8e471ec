"""Custom datasets: a folder of images, a NumPy file, a Hugging Face dataset on disk, or a function that makes one.

The setting `data.dataset` is `"folder:PATH"`, `"npz:PATH"`, `"hf:PATH"` or `"module:factory"`, or a table with such a name and settings.
The result depends on names and contents of files alone, not on the order in which a file system lists them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedsam import plugins, registry
from fedsam.config import Component, ConfigError, Count
from fedsam.data.dataset import Dataset, Pixels
from fedsam.documentation import documented
from fedsam.registry import FunctionContract, Registry

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSize = Count | tuple[Count, Count] | None
SETTING = "data.dataset"
HIDDEN_FILES = ("Thumbs.db", "desktop.ini")  # hidden by Windows; other systems hide names that begin with a dot


@documented(
    image_size="Resize images to so many pixels, or to [height, width]; default: all must have one size.",
)
def folder(path: Path, *, image_size: ImageSize = None) -> Dataset:
    """A folder with `train` and `test`, in each a sub-folder of images for every class; sub-folders name the classes.

    Any image that Pillow opens: PNG, JPEG, GIF (the first frame), WebP, BMP, TIFF, ... A class may have no training or no test images, by
    having no sub-folder there.
    """
    found = {which: _class_folders(path / which) for which in ("train", "test")}
    numbers = {name: number for number, name in enumerate(sorted({place.name for places in found.values() for place in places}))}
    arrays: dict[str, Any] = {}
    for which, places in found.items():
        files = [file for place in places for file in _files(place)]
        with ThreadPoolExecutor() as threads:  # decoding releases the GIL
            images = list(threads.map(_Reader(image_size).file, files))
        arrays[f"x_{which}"] = _stacked(images, files)
        arrays[f"y_{which}"] = np.array([numbers[file.relative_to(path / which).parts[0]] for file in files])
    return Dataset.from_arrays(**arrays, class_names=list(numbers))


def npz(path: Path) -> Dataset:
    """A file of `numpy.savez` with x_train, y_train, x_test, y_test and perhaps class_names and client_train.

    Images and labels are those of `Dataset.from_arrays`; client_train has the client of each training example, for the natural partition.
    """
    needed, optional = ("x_train", "y_train", "x_test", "y_test"), ("class_names", "client_train")
    with path.open("rb") as opened:
        try:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not several with names, as numpy.savez writes them")
        except (ValueError, BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is no NumPy file of arrays ({error})") from None
        missing = [name for name in needed if name not in file.files]
        if missing:
            raise ValueError(f"{path} has no {missing[0]}; it holds {', '.join(file.files) or 'nothing'}")
        arrays: dict[str, Any] = {name: _member(file, name) for name in (*needed, *optional) if name in file.files}
    return Dataset.from_arrays(**arrays)


@documented(
    image="Column of the images; default: the only one of type Image.",
    label="Column of the labels; default: the only one of type ClassLabel.",
    client="Column that names the client of each training example, for the natural partition.",
    image_size="Resize images to so many pixels, or to [height, width]; default: all must have one size.",
)
def hf(
    path: Path,
    *,
    image: str | None = None,
    label: str | None = None,
    client: str | None = None,
    image_size: ImageSize = None,
) -> Dataset:
    """A Hugging Face dataset with the splits train and test, written by `save_to_disk`. Needs the package datasets."""
    splits = _huggingface().load_from_disk(str(path))
    for which in ("train", "test"):
        if which not in splits:
            raise ValueError(f"{path} has no split {which}; it has {', '.join(map(str, splits))}")
    features = splits["train"].features
    x_column, y_column = _column(features, image, "Image", "image"), _column(features, label, "ClassLabel", "label")
    if splits["test"].features != features:
        raise ValueError(f"{path}: the columns of test differ from those of train")
    arrays: dict[str, Any] = {}
    for which in ("train", "test"):
        names = [f"{path}, {which}, row {row}" for row in range(len(splits[which]))]
        arrays[f"x_{which}"] = _stacked(list(map(_Reader(image_size).cell, splits[which][x_column], names)), names)
        arrays[f"y_{which}"] = np.array(splits[which][y_column])
    if client is not None:
        arrays["client_train"] = np.array(splits["train"][_column(features, client, "", "client")])
    return Dataset.from_arrays(**arrays, class_names=getattr(features[y_column], "names", None))


def factory(component: Component) -> Callable[[], Any]:
    """A function of your own, called with the settings: it gives `Dataset.from_arrays(...)`, or x_train, y_train, x_test and y_test."""
    made: Callable[[], Any] = registry.build(FACTORIES, component, SETTING)
    return made


FORMATS = Registry[Callable[..., Dataset]]("datasets", FunctionContract(("path",)), {"folder": folder, "npz": npz, "hf": hf})
FACTORIES = Registry[Callable[..., Any]]("datasets", FunctionContract(()), {})
REQUIRED_PATHS: Mapping[str, Sequence[str]] = {
    "folder": ("train", "test"),
    "npz": (),
    "hf": ("dataset_dict.json",),
}  # below PATH


def check(component: Component) -> Callable[[], Any]:
    """The function that reads the dataset, after checks that need no reading.

    Raises:
        ConfigError: A setting is not allowed, or the files or the function do not exist.
    """
    form, _, place = component.name.partition(":")
    if form not in FORMATS:
        return factory(component)
    settings = registry.resolve(FORMATS, Component.model_validate({**component.settings, "name": form}), SETTING)
    path = Path(place).expanduser()
    for member in ("", *REQUIRED_PATHS[form]):
        if not place or not (path / member).exists():
            raise ConfigError(f"{SETTING}: {component.name!r} is not allowed: {path / member if place else 'PATH'} does not exist")
    return partial(FORMATS[form], path, **settings)


def load(component: Component) -> Dataset:
    """Load the dataset that `component` names.

    Raises:
        ConfigError: As `check`, or it cannot be read or made; the message names the file or array.
    """
    read = check(component)
    if component.name.partition(":")[0] in FORMATS:
        try:
            made = read()
        except (ValueError, OSError) as error:
            raise ConfigError(f"{SETTING}: {component.name!r} is not allowed: {error}") from error
    else:
        with plugins.component_errors(SETTING, component.name):
            made = read()
            if isinstance(made, tuple | list) and len(made) == 4:
                made = Dataset.from_arrays(*made)
    if not isinstance(made, Dataset):
        expected = "a fedsam.data.dataset.Dataset, or x_train, y_train, x_test, y_test"
        raise ConfigError(f"{SETTING}: {component.name!r} is not allowed: it makes a {type(made).__name__}, not {expected}")
    return replace(made, name=component.name, digest=made.digest or made.content_hash())


def references(component: Component) -> set[str]:
    """The `module:factory` of a dataset, if it has one; none for a script or notebook, whose data only its own process makes."""
    name, form = component.name, component.name.partition(":")[0]
    return {name} if plugins.is_reference(name) and form not in (*FORMATS, "__main__") else set()


def with_absolute_path(dataset: str | Component) -> str | Component:
    """The same setting with an absolute PATH, for processes in other folders."""
    name = dataset if isinstance(dataset, str) else dataset.name
    form, _, place = name.partition(":")
    if form not in FORMATS:
        return dataset
    name = f"{form}:{Path(place).expanduser().absolute()}"
    return name if isinstance(dataset, str) else dataset.model_copy(update={"name": name})


@dataclass(frozen=True)
class _Reader:
    """Reads images as pixels (H, W) or (H, W, 3), resized to `image_size` unless it is None."""

    image_size: ImageSize

    def file(self, path: Path) -> Pixels:
        """Read an image file."""
        from PIL import Image

        try:
            with Image.open(path) as image:
                return self._pixels(image)
        # Pillow raises these for files that are broken or no images.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is no image that can be read ({error})") from None

    def cell(self, image: Any, name: str) -> Pixels:
        """Read an image in a cell of a table, called `name` in messages."""
        from PIL import Image

        if not isinstance(image, Image.Image):
            raise ValueError(f"{name}: a {type(image).__name__} is not allowed: must be an image")
        return self._pixels(image)

    def _pixels(self, image: Image) -> Pixels:
        plain, size = _plain(image), self.image_size
        if size is not None:
            from PIL.Image import Resampling

            height, width = (size, size) if isinstance(size, int) else size
            # Pillow interpolates in integers, so every machine gets the same pixels.
            plain = plain.resize((width, height), Resampling.BILINEAR)
        return np.asarray(plain)


def _plain(image: Image) -> Image:
    """An image as 8-bit grey or RGB, without alpha or palette."""
    if image.mode.startswith("I;16"):
        from PIL.Image import fromarray

        return fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of type {image.mode} are not allowed: must have 8 or 16 bits")
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def _stacked(images: Sequence[Pixels], names: Sequence[object]) -> Pixels:
    """Images as one array (N, H, W) or (N, H, W, 3); grey ones become RGB where others are RGB."""
    for pixels, name in zip(images, names, strict=True):
        if pixels.shape[:2] != images[0].shape[:2]:
            (h, w), (height, width) = pixels.shape[:2], images[0].shape[:2]
            raise ValueError(f"{name} is {h} x {w}, and {names[0]} is {height} x {width}: set image_size to have them resized")
    if any(pixels.ndim == 3 for pixels in images):
        images = [np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels for pixels in images]
    return np.stack(images) if images else np.zeros((0, 1, 1), np.uint8)


def _class_folders(path: Path) -> list[Path]:
    """The sub-folders of classes in `train` or `test`."""
    found = sorted((entry for entry in path.iterdir() if not _hidden(entry)), key=lambda entry: entry.name)
    for entry in found:
        if not entry.is_dir():
            raise ValueError(f"{entry} is no folder: images lie in sub-folders of {path}, one for each class")
    if not found:
        raise ValueError(f"{path} has no sub-folders, one for each class")
    return found


def _files(place: Path) -> list[Path]:
    """All files of a class, sorted by path."""
    found = sorted(_walk(place), key=lambda file: file.relative_to(place).as_posix())
    if not found:
        raise ValueError(f"{place} has no images")
    return found


def _walk(place: Path) -> Iterator[Path]:
    for entry in place.iterdir():
        if not _hidden(entry):
            yield from _walk(entry) if entry.is_dir() else [entry]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in HIDDEN_FILES


def _member(file: np.lib.npyio.NpzFile, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = file[name]
    except (ValueError, OSError, BadZipFile) as error:
        raise ValueError(f"{name}: cannot be read ({error})") from None
    return array


def _huggingface() -> Any:
    """The package datasets. Raises `ValueError` where it is not installed."""
    if find_spec("datasets") is None:
        raise ValueError("it needs the package datasets, which is not installed; install it with: pip install 'fedsam[hf]'")
    return importlib.import_module("datasets")


def _column(features: Mapping[str, Any], given: str | None, kind: str, key: str) -> str:
    """The given column, or else the only one of a type."""
    there = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    if given is not None:
        if given not in features:
            raise ValueError(f"{key}: {given!r} is no column; there are {there}")
        return given
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        raise ValueError(f"{len(found)} columns are of type {kind}: set {key} to one of {there}")
    return found[0]
