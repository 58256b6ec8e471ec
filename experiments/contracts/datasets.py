"""What a dataset promises.

Legend: `x: (N, C, H, W)` images, `y: (N,)` labels.
"""

from __future__ import annotations

from typing import Any

import torch

from experiments.contracts.actors import ONE_MODEL
from experiments.contracts.base import Check, CheckedComponent, expect, expect_deterministic, first_few
from fedsam.data import datasets
from fedsam.data.augmentation import AUGMENTATIONS
from fedsam.data.datasets import Dataset, Images


def made(component: CheckedComponent) -> Dataset:
    """The dataset, loaded as a run does it."""
    dataset = datasets.load(component.component)
    expect(isinstance(dataset, Dataset), "a fedsam.data.datasets.Dataset", f"a {type(dataset).__name__}")
    assert isinstance(dataset, Dataset)
    return dataset


def parts(dataset: Dataset) -> dict[str, Images]:
    """Training and test images."""
    return {"train": dataset.train, "test": dataset.test}


def images_are_bytes(component: CheckedComponent) -> None:
    """Images of uint8, one label for each, training and test images of one size."""
    dataset = made(component)
    for name, part in parts(dataset).items():
        found = f"{part.x.dtype} of shape {tuple(part.x.shape)}"
        expect(part.x.dtype == torch.uint8 and part.x.ndim == 4, f"{name}.x to be uint8 (N, C, H, W)", found)
        expect(len(part.x) > 0, f"{name} images", "none")
    shapes = [tuple(part.x.shape[1:]) for part in parts(dataset).values()]
    expect(shapes[0] == shapes[1], f"test images of {shapes[0]}, as for training", str(shapes[1]))


def labels_are_classes(component: CheckedComponent) -> None:
    """One label from 0 to classes - 1 for each image, and training images of two classes at least."""
    dataset = made(component)
    for name, part in parts(dataset).items():
        expected = f"{name}.y to be int64 of shape ({len(part.x)},)"
        expect(part.y.dtype == torch.int64 and part.y.shape == (len(part.x),), expected, f"{part.y.dtype} of shape {tuple(part.y.shape)}")
        outside = part.y[(part.y < 0) | (part.y >= dataset.classes)].unique().tolist()
        expect(not outside, f"{name} labels from 0 to {dataset.classes - 1} (classes is {dataset.classes})", first_few(outside))
    kinds = len(dataset.train.y.unique())
    expect(kinds > 1, "training images of two classes at least", f"of {kinds}")


def scales_fit(component: CheckedComponent) -> None:
    """Mean and standard deviation per channel, and known augmentations."""
    dataset = made(component)
    channels = dataset.image[0]
    for name, values in (("mean", dataset.mean), ("std", dataset.std)):
        expect(len(values) == channels, f"{name} of {channels} channels", str(len(values)))
    expect(all(value > 0 for value in dataset.std), "standard deviations above 0", str(tuple(dataset.std)))
    unknown = sorted(set(dataset.augment) - set(AUGMENTATIONS))
    expect(not unknown, f"augmentations among {first_few(sorted(AUGMENTATIONS))}", first_few(unknown))


def same_every_time(component: CheckedComponent) -> None:
    """Every process that makes it has the same."""

    def run() -> dict[str, Any]:
        return {name: {"x": part.x, "y": part.y} for name, part in parts(made(component)).items()}

    expect_deterministic(run, "making it")


CHECKS = (
    Check("images are bytes of one size", images_are_bytes),
    Check("labels are its classes", labels_are_classes),
    Check("mean and std are per channel, augmentations are known", scales_fit),
    Check("it is the same every time", same_every_time),
    ONE_MODEL,
)
