"""Datasets from arrays: shapes, types, labels and clients that somebody's files may have, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedsam.data.augmentation import normalize
from fedsam.data.dataset import Dataset

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 6, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def made(x: Any = GREY, y: Any = LABELS, x_test: Any = None, y_test: Any = None, **settings: Any) -> Dataset:
    return Dataset.from_arrays(x, y, x if x_test is None else x_test, y if y_test is None else y_test, **settings)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (torch.from_numpy(GREY), GREY[:, None]),
        (np.concatenate([COLOUR, COLOUR[..., :1]], axis=3), COLOUR.transpose(0, 3, 1, 2)),
        (GREY.astype(np.int64), GREY[:, None]),
        (GREY.astype(np.float32), GREY[:, None]),
        (GREY / 255, GREY[:, None]),
        ((GREY / 255).astype(np.float32), GREY[:, None]),
        ((GREY / 255).astype(np.float16), None),
        (GREY > 127, np.where(GREY > 127, 255, 0)[:, None]),
    ],
    ids=["NHW", "NHWC grey", "NCHW grey", "NHWC", "NCHW", "torch", "RGBA", "int64", "whole floats", "0..1", "0..1 float32", "half", "bool"],
)
def test_images_of_any_layout_and_type(x: Any, expected: np.ndarray | None) -> None:
    found = made(x).train.x
    assert found.dtype == torch.uint8 and found.is_contiguous()
    if expected is None:  # half precision has ten bits of fraction: off by a level where two levels are near
        assert (found.int() - torch.from_numpy(GREY[:, None]).int()).abs().max() <= 1
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((2, 3, 4, 4), (3, 4, 4)),
        ((2, 4, 4, 3), (3, 4, 4)),
        ((2, 3, 3, 3), (3, 3, 3)),
        ((2, 1, 9, 3), (3, 1, 9)),
        ((2, 1, 28, 28), (1, 28, 28)),
    ],
)
def test_square_images_decide_which_axis_has_the_channels(shape: tuple[int, ...], image: tuple[int, int, int]) -> None:
    assert made(np.zeros(shape, np.uint8), [0, 1]).image == image


def test_the_last_axis_has_the_channels_where_nothing_else_decides() -> None:
    x = RNG.integers(0, 256, (2, 3, 3, 3), dtype=np.uint8)
    assert np.array_equal(made(x, [0, 1]).train.x, x.transpose(0, 3, 1, 2))


def test_grey_beside_colour_becomes_colour() -> None:
    dataset = made(GREY, LABELS, COLOUR, LABELS)
    assert dataset.image == (3, 6, 8)
    assert all(torch.equal(dataset.train.x[:, channel], torch.from_numpy(GREY)) for channel in range(3))


def test_train_and_test_are_scaled_alike() -> None:
    dark = (GREY > 250).astype(np.float64)  # ones and zeros, of 255
    assert torch.equal(made(GREY.astype(np.float64), x_test=dark).test.x[:, 0], torch.from_numpy(dark).byte())
    assert int(made(GREY / 255, x_test=dark).test.x.max()) == 255


@pytest.mark.parametrize(
    ("y", "names", "codes"),
    [
        ([0, 1, 2] * 4, (), [0, 1, 2]),
        ([7, -2, 40] * 4, ("-2", "7", "40"), [1, 0, 2]),
        (["dog", "ant", "cat"] * 4, ("ant", "cat", "dog"), [2, 0, 1]),
        (np.array([[5], [6], [9]] * 4, np.uint8), ("5", "6", "9"), [0, 1, 2]),
        ([True, False, True] * 4, ("False", "True"), [1, 0, 1]),
    ],
    ids=["numbers", "gaps", "texts", "a column", "bool"],
)
def test_labels_are_renumbered_and_named(y: Any, names: tuple[str, ...], codes: list[int]) -> None:
    dataset = made(y=y)
    assert (dataset.class_names, dataset.classes, dataset.train.y.tolist()) == (names, len(set(codes)), codes * 4)
    assert dataset.train.y.dtype == torch.int64


def test_classes_that_only_the_test_set_has_count() -> None:
    dataset = made(y=["a", "b"] * 6, y_test=["c", "b"] * 6)
    assert (dataset.classes, dataset.test.y.tolist()) == (3, [2, 1] * 6)


@pytest.mark.parametrize("y", [LABELS, np.array(["x", "y", "z"])[LABELS]])
def test_given_names_have_classes_without_examples(y: np.ndarray) -> None:
    dataset = made(y=y, class_names=["x", "y", "z", "none"])
    assert (dataset.classes, dataset.class_names, dataset.train.y.tolist()) == (4, ("x", "y", "z", "none"), LABELS.tolist())


def test_clients_are_renumbered() -> None:
    clients = made(client_train=["bob", "al", "bob"] * 4).clients
    assert clients is not None
    assert clients.tolist() == [1, 0, 1] * 4
    assert made().clients is None


def test_standardized_by_the_training_images() -> None:
    dataset = made(COLOUR, x_test=np.zeros_like(COLOUR))
    x = normalize(dataset.train.x, dataset.mean, dataset.std, torch.float64)
    assert x.mean((0, 2, 3)).abs().max() < 1e-3
    assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-3
    assert all(round(value, 4) == value for value in (*dataset.mean, *dataset.std))


def test_a_channel_that_never_varies_can_be_normalized() -> None:
    dataset = made(np.full((12, 6, 8), 51, np.uint8))
    assert (dataset.mean, dataset.std) == ((0.2,), (1.0,))


def test_the_digest_tells_contents_apart() -> None:
    changed = GREY.copy()
    changed[3, 2, 1] ^= 1
    others = made(changed), made(client_train=LABELS), made(class_names=["x", "y", "z"]), made(y=LABELS[::-1])
    assert len({made().digest, *(other.digest for other in others)}) == 5
    assert made().digest == made(GREY.copy()).digest


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY[:0], "y": []}, "x_train: is empty"),
        ({"x": GREY[0]}, r"x_train: shape \(6, 8\) is not allowed: must be \(N, H, W\)"),
        ({"x": np.zeros((12, 5, 6, 7))}, "with 1, 3 or 4 channels"),
        ({"x": GREY.astype(str)}, "x_train: pixels of type <U3"),
        ({"x": GREY / 255 - 0.5}, r"x_train: pixels from -0.5 to 0.5 are not allowed: scale them to 0..1 or 0..255, for example"),
        ({"x": GREY * 100.0}, "x_train: pixels from .* to .* are not allowed: scale"),
        ({"x": np.where(GREY.max() == GREY, np.nan, 0.0)}, "x_train: pixels from nan"),
        ({"x": GREY.astype(np.uint16) * 200}, "x_train: pixels from"),
        ({"x": GREY / 2}, "x_train: broken numbers from"),
        ({"x_test": GREY[:, 1:]}, "x_test: its images are 5 x 8, and those of x_train are 6 x 8"),
        ({"y": LABELS[1:], "y_test": LABELS}, "y_train: has 11 entries, and x_train has 12"),
        ({"y_test": 3}, "y_test: has no entries"),
        ({"y": np.eye(3)[LABELS]}, r"y_train: float64 of shape \(12, 3\) is not allowed"),
        ({"y": LABELS / 2}, "y_train: float64"),
        ({"y": LABELS * 0}, "y_train: 1 class is not allowed"),
        ({"y": LABELS, "y_test": ["a"] * 12, "class_names": ["x", "y", "z"]}, "y_test: 'a' is not in class_names"),
        ({"class_names": ["x", "y"]}, "y_train: labels from 0 to 2 are not allowed: class_names has 2"),
        ({"class_names": ["x", "y", "x"]}, "class_names: .* must differ"),
        ({"client_train": [0, 1]}, "client_train: has 2 entries, and x_train has 12"),
        ({"client_train": LABELS / 2}, "client_train: float64"),
    ],
)
def test_what_is_refused_is_named(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**arrays)


def test_labels_of_two_types_are_refused() -> None:
    with pytest.raises(ValueError, match="y_train and y_test: numbers beside texts"):
        made(y=LABELS, y_test=["a", "b", "c"] * 4)
