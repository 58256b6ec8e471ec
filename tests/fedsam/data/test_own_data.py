"""Somebody's own data: folders of images, NumPy files, Hugging Face datasets on disk, functions; and what is wrong with them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedsam import plugins
from fedsam.config import Component, ConfigError
from fedsam.data import own_data
from fedsam.data.dataset import Dataset
from fedsam.data.own_data import load
from tests.support.trap import Trap, sprung, trap

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]
WHICH = ("train", "test")


def part(name: str, **settings: Any) -> Component:
    return Component.model_validate({"name": name, **settings})


def write(path: Path, pixels: np.ndarray, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of two images for each of two classes, for training and for testing."""
    for which in WHICH:
        for kind in ("dog", "cat"):
            for number in (1, 0):
                write(tmp_path / "pets" / which / kind / f"{number}.png", RGB + 10 * (kind == "cat") + number)
    return tmp_path / "pets"


@pytest.fixture
def arrays() -> dict[str, Any]:
    """What a NumPy file holds."""
    x = RNG.integers(0, 256, (8, 5, 5), dtype=np.uint8)
    return {"x_train": x, "y_train": np.arange(8) % 2, "x_test": x[:4], "y_test": np.arange(4) % 2}


def folder(path: Path, **settings: Any) -> Dataset:
    return load(part(f"folder:{path}", **settings))


def test_a_folder_gives_images_in_the_order_of_their_names(pets: Path) -> None:
    dataset = folder(pets)
    assert (dataset.name, dataset.class_names, dataset.image) == (f"folder:{pets}", ("cat", "dog"), (3, 6, 8))
    assert dataset.train.y.tolist() == [0, 0, 1, 1]
    expected = [RGB + 10, RGB + 11, RGB, RGB + 1]
    assert np.array_equal(dataset.train.x, np.stack(expected).transpose(0, 3, 1, 2))
    assert dataset.augment == () and dataset.clients is None


def test_a_folder_is_the_same_however_the_file_system_lists_it(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, listed = folder(pets), Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(list(listed(path))))
    assert folder(pets).digest == before.digest


@pytest.mark.parametrize(
    ("name", "settings"),
    [("a.png", {}), ("a.gif", {}), ("a.bmp", {}), ("a.tiff", {}), ("a.webp", {"lossless": True}), ("noextension", {"format": "png"})],
)
def test_any_format_is_read_whatever_its_name(pets: Path, name: str, settings: dict[str, Any]) -> None:
    grey = RNG.integers(0, 2, (6, 8), dtype=np.uint8) * 255
    write(pets / "train" / "ant" / name, grey, **settings)
    assert np.array_equal(folder(pets).train.x[0], np.stack([grey] * 3))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "1", "P"])
def test_modes_become_grey_or_colour_without_alpha(tmp_path: Path, mode: str) -> None:
    grey, colour = Image.fromarray(GREY), Image.fromarray(RGB)
    image, expected = {
        "L": (grey, GREY),
        "LA": (grey.copy(), GREY),
        "RGB": (colour, RGB),
        "RGBA": (colour.copy(), RGB),
        "I;16": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        "1": (grey.convert("1"), np.asarray(grey.convert("1").convert("L"))),
        "P": (colour.quantize(256), np.asarray(colour.quantize(256).convert("RGB"))),
    }[mode]
    if mode in ("LA", "RGBA"):
        image.putalpha(grey)  # some of it transparent
    assert image.mode == mode
    for which in WHICH:
        for kind in "ab":
            (tmp_path / which / kind).mkdir(parents=True)
            image.save(tmp_path / which / kind / "1.png")
    shape = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    assert np.array_equal(folder(tmp_path).train.x[0], shape)


def test_grey_and_colour_in_one_folder_become_colour(pets: Path) -> None:
    write(pets / "test" / "cat" / "2.png", GREY)
    dataset = folder(pets)
    assert dataset.image == (3, 6, 8)
    assert np.array_equal(dataset.test.x[2], np.stack([GREY] * 3))


@pytest.mark.parametrize(("size", "image"), [(4, (3, 4, 4)), ([3, 5], (3, 3, 5))])
def test_images_are_resized(pets: Path, size: Any, image: tuple[int, int, int]) -> None:
    write(pets / "train" / "dog" / "large.png", np.full((40, 60, 3), 77, np.uint8))
    dataset = folder(pets, image_size=size)
    assert dataset.image == image
    assert dataset.train.x[-1].unique().tolist() == [77]


def test_a_smaller_image_is_the_mean_of_what_it_covers(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (8, 4))
    for which in WHICH:
        for kind in "ab":
            write(tmp_path / which / kind / "1.png", stripes)
    assert folder(tmp_path, image_size=2).train.x.float().sub(100).abs().max() <= 20  # not 0 or 200, as without smoothing


def test_hidden_files_and_nested_folders(pets: Path) -> None:
    (pets / "train" / ".DS_Store").write_bytes(b"x")
    (pets / "train" / "cat" / ".hidden").write_bytes(b"x")
    (pets / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    write(pets / "train" / "cat" / "more" / "0.png", RGB)
    assert folder(pets).train.y.tolist() == [0, 0, 0, 1, 1]


def test_a_class_may_be_missing_in_train_or_in_test(pets: Path) -> None:
    write(pets / "test" / "emu" / "0.png", RGB)
    write(pets / "train" / "ant" / "0.png", RGB)
    dataset = folder(pets)
    assert dataset.class_names == ("ant", "cat", "dog", "emu")
    assert (sorted(set(dataset.train.y.tolist())), sorted(set(dataset.test.y.tolist()))) == ([0, 1, 2], [1, 2, 3])


def no_image(pets: Path) -> None:
    (pets / "train" / "cat" / "notes.txt").write_text("meow")


def truncated(pets: Path) -> None:
    file = pets / "train" / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:60])


def deep(pets: Path) -> None:
    Image.fromarray(GREY.astype(np.float32)).save(pets / "train" / "cat" / "deep.tiff")


def other_size(pets: Path) -> None:
    write(pets / "test" / "cat" / "5.png", RGB[:5])


def empty_class(pets: Path) -> None:
    (pets / "train" / "emu").mkdir()


def loose(pets: Path) -> None:
    write(pets / "train" / "0.png", RGB)


def without_test(pets: Path) -> None:
    (pets / "test").rename(pets / "val")


def without_classes(pets: Path) -> None:
    (pets / "test").rename(pets / "val")
    (pets / "test").mkdir()


def one_class(pets: Path) -> None:
    for which in WHICH:
        (pets / which / "cat").rename(pets / f"{which}-cat")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_image, "train/cat/notes.txt is no image that can be read"),
        (truncated, "train/cat/1.png is no image that can be read"),
        (deep, "train/cat/deep.tiff is no image that can be read .pixels of type F"),
        (other_size, "test/cat/5.png is 5 x 8, and .*/test/cat/0.png is 6 x 8: set image_size"),
        (empty_class, "train/emu has no images"),
        (loose, "train/0.png is no folder: images lie in sub-folders of"),
        (without_test, "pets/test does not exist"),
        (without_classes, "pets/test has no sub-folders, one for each class"),
        (one_class, "1 class is not allowed: must be two or more"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named(pets: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(pets)
    with pytest.raises(ConfigError, match=f"data.dataset: 'folder:.*' is not allowed: .*{message}"):
        folder(pets)


def test_sizes_are_compared_between_train_and_test(tmp_path: Path) -> None:
    for which, pixels in zip(WHICH, (RGB, RGB[:5]), strict=True):
        for kind in "ab":
            write(tmp_path / which / kind / "1.png", pixels)
    with pytest.raises(ConfigError, match="x_test: its images are 5 x 8, and those of x_train are 6 x 8"):
        folder(tmp_path)


def test_npz(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "a.npz", **arrays, client_train=np.arange(8) % 3 * 7, class_names=["no", "yes"], x_val=np.zeros(3))
    dataset = load(part(f"npz:{tmp_path / 'a.npz'}"))
    assert (dataset.class_names, dataset.name) == (("no", "yes"), f"npz:{tmp_path / 'a.npz'}")
    assert np.array_equal(dataset.train.x[:, 0], arrays["x_train"])
    assert dataset.clients is not None
    assert dataset.clients.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_path_may_be_relative_or_in_the_home_folder(tmp_path: Path, arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = [load(part(f"npz:{path}")) for path in ("a.npz", "~/a.npz")]
    assert found[0].digest == found[1].digest
    assert own_data.with_absolute_path("npz:a.npz") == own_data.with_absolute_path("npz:~/a.npz") == f"npz:{tmp_path}/a.npz"
    assert own_data.with_absolute_path(part("folder:x", image_size=3)) == part(f"folder:{tmp_path}/x", image_size=3)
    assert [own_data.with_absolute_path(name) for name in ("digits", "mine:blobs")] == ["digits", "mine:blobs"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, "a.npz has no y_test; it holds x_train, y_train, x_test"),
        ({"x_train": np.array([{}] * 8, dtype=object)}, "x_train: cannot be read .*allow_pickle=False"),
        ({"y_train": np.arange(7)}, "y_train: has 7 entries, and x_train has 8"),
        ({"x_test": np.zeros((4, 5, 5)) - 1}, "x_test: pixels from -1 to -1 are not allowed"),
    ],
)
def test_what_is_wrong_in_a_numpy_file_is_named(tmp_path: Path, arrays: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    kept = {name: array for name, array in (arrays | changed).items() if array is not None}
    np.savez(tmp_path / "a.npz", **kept)
    with pytest.raises(ConfigError, match=f"data.dataset: 'npz:.*a.npz' is not allowed: .*{message}"):
        load(part(f"npz:{tmp_path / 'a.npz'}"))


@pytest.mark.parametrize("form", ["pickle", "array", "member"])
def test_a_pickle_in_a_numpy_file_is_not_executed(form: str, tmp_path: Path, arrays: dict[str, Any]) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.npz"
    path.write_bytes(trap(marker))
    trapped = np.array([Trap(marker)], dtype=object)
    if form == "array":
        with path.open("wb") as file:
            np.save(file, trapped, allow_pickle=True)
    elif form == "member":
        np.savez(path, **arrays | {"y_train": trapped})
    with pytest.raises(ConfigError, match=r"is not allowed: .*(no NumPy file of arrays|y_train: cannot be read)"):
        load(part(f"npz:{path}"))
    assert not sprung(marker)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 no zip"])
def test_other_files_are_no_numpy_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.npz is no NumPy file of arrays"):
        load(part(f"npz:{tmp_path / 'a.npz'}"))


def test_one_array_is_not_several(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ConfigError, match="it holds one array, not several with names"):
        load(part(f"npz:{tmp_path / 'a.npy'}"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (part("npz:"), "data.dataset: 'npz:' is not allowed: PATH does not exist"),
        (part("folder:nowhere"), "data.dataset: 'folder:nowhere' is not allowed: nowhere does not exist"),
        (part("hf:."), "data.dataset: 'hf:.' is not allowed: dataset_dict.json does not exist"),
        (part("folder:.", image_size=0), "data.dataset.image_size: 0 is not allowed"),
        (part("folder:.", size=3), "data.dataset.size: unknown key"),
        (part("nowhere_at_all:blobs"), "data.dataset: 'nowhere_at_all:blobs' is not allowed: there is no module"),
    ],
)
def test_what_can_be_seen_without_reading_is_checked(given: Component, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_data.check(given)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else with functions that make datasets."""
    (tmp_path / "own_blobs.py").write_text(BLOBS)
    monkeypatch.chdir(tmp_path)
    plugins.search(tmp_path)
    return "own_blobs"


BLOBS = """
import numpy as np
from fedsam.data.datasets import Dataset

def blobs(examples: int = 40, size: int = 8):
    rng = np.random.default_rng(0)
    y = np.arange(examples) % 4
    x = rng.random((examples, size, size)) / 2 + y[:, None, None] / 8
    return Dataset.from_arrays(x, y, x[:8], y[:8], class_names=["a", "b", "c", "d"], client_train=y % 2)

def arrays():
    made = blobs()
    return made.train.x, made.train.y, made.test.x, made.test.y

def nothing():
    return 3

def broken():
    raise KeyError("weights")
"""


def test_a_function_makes_a_dataset(mine: str) -> None:
    dataset = load(part(f"{mine}:blobs", examples=24))
    assert (dataset.name, dataset.class_names, len(dataset.train.y)) == ("own_blobs:blobs", ("a", "b", "c", "d"), 24)
    assert torch.equal(load(part(f"{mine}:arrays")).train.x, load(part(f"{mine}:blobs")).train.x)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("blob", {}, "has no blob, did you mean 'blobs'"),
        ("blobs", {"exampels": 3}, "data.dataset.exampels: unknown key, did you mean 'examples'"),
        ("blobs", {"examples": "many"}, "data.dataset.examples: 'many' is not allowed"),
        ("blobs", {"examples": 0}, "data.dataset: 'own_blobs:blobs' is not allowed: it ended with ValueError: x_train: is empty"),
        ("nothing", {}, "it makes a int, not a fedsam.data.dataset.Dataset, or x_train"),
        ("broken", {}, r"'own_blobs:broken' is not allowed: it ended with KeyError: 'weights' \(.*own_blobs\.py, line 19\)"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(mine: str, name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(part(f"{mine}:{name}", **settings))


def saved(path: Path, columns: dict[str, Any], features: dict[str, Any], splits: tuple[str, ...] = WHICH) -> Path:
    """A Hugging Face dataset on disk."""
    import datasets

    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    datasets.disable_progress_bars()
    datasets.DatasetDict(dict.fromkeys(splits, made)).save_to_disk(path)
    return path


def images(**others: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns and features of a small dataset."""
    from datasets import ClassLabel, Value
    from datasets import Image as Images

    columns = {"img": [RGB, GREY, RGB, GREY], "label": [0, 1, 1, 0], "who": ["bo", "al", "bo", "cy"], "kind": ["x", "y", "x", "y"]}
    features = {"img": Images(), "label": ClassLabel(names=["cat", "dog"]), "who": Value("string"), "kind": Value("string")}
    return columns | {name: values for name, (values, _) in others.items()}, features | {name: kind for name, (_, kind) in others.items()}


def test_hugging_face(tmp_path: Path) -> None:
    path = saved(tmp_path / "hf", *images())
    dataset = load(part(f"hf:{path}", client="who"))
    assert (dataset.class_names, dataset.image, dataset.train.y.tolist()) == (("cat", "dog"), (3, 6, 8), [0, 1, 1, 0])
    assert np.array_equal(dataset.train.x[0], RGB.transpose(2, 0, 1))
    assert dataset.clients is not None
    assert dataset.clients.tolist() == [1, 0, 1, 2]
    other = load(part(f"hf:{path}", label="kind", image="img", image_size=4))
    assert (other.class_names, other.image, other.clients) == (("x", "y"), (3, 4, 4), None)


def test_what_is_wrong_in_a_hugging_face_dataset_is_named(tmp_path: Path) -> None:
    from datasets import Image as Images

    two = saved(tmp_path / "two", *images(other=([RGB] * 4, Images())))
    half = saved(tmp_path / "half", *images(), splits=("train", "validation"))
    gap = saved(tmp_path / "gap", *images(img=([RGB, None, RGB, RGB], Images())))
    for given, message in (
        (part(f"hf:{two}"), "2 columns are of type Image: set image to one of img (Image), "),
        (part(f"hf:{two}", image="img", label="labels"), "label: 'labels' is no column; there are img (Image), label (ClassLabel), "),
        (part(f"hf:{two}", image="who"), "two, train, row 0: a str is not allowed: must be an image"),
        (part(f"hf:{half}"), "half has no split test; it has train, validation"),
        (part(f"hf:{gap}"), "gap, train, row 1: a NoneType is not allowed: must be an image"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            load(given)


def test_hugging_face_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    monkeypatch.setattr(own_data, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=re.escape("needs the package datasets, which is not installed; install it with: pip install 'fedsam[hf]'")
    ):
        load(part(f"hf:{tmp_path}"))


def test_the_other_forms_do_not_import_it(arrays: dict[str, Any], tmp_path: Path, pets: Path) -> None:
    import subprocess

    np.savez(tmp_path / "a.npz", **arrays)
    code = f"""
import sys
from fedsam.data import datasets
datasets.load("npz:{tmp_path / "a.npz"}"), datasets.load("folder:{pets}")
from fedsam.data.partition import PARTITIONS
PARTITIONS.find("dirichlet", "data.partition")
print([name for name in ("datasets", "flwr_datasets", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
