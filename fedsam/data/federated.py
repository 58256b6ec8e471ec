"""A dataset partitioned over clients, and the batches of local training.

Legend: `x: (B, C, H, W)` images, `y: (B,)` labels.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from fedsam import registry
from fedsam.config import ConfigError, Experiment, LastBatch
from fedsam.data import augmentation, partition
from fedsam.data.datasets import Dataset, Images
from fedsam.plugins import component_errors
from fedsam.seeds import stream, tensor_stream


def fallback_note(dataset: Dataset, experiment: Experiment) -> str:
    """A warning that the dataset is the fallback; empty where it is the one that the experiment asks for."""
    wanted, limit, there = experiment.data.source.name, experiment.data.examples, len(dataset.train.y)
    if dataset.name == wanted:
        return ""
    less = f", all {there} training examples of it (data.examples: {limit})" if limit is not None and limit > there else ""
    return f"dataset {wanted} cannot be had: this run uses {dataset.name} instead{less}"


def partition_examples(experiment: Experiment, dataset: Dataset) -> list[np.ndarray]:
    """The partition of the experiment, from its seed alone: index arrays into the training examples, one per client.

    A fallback with fewer examples than `data.examples` is used whole. What is held out for validation belongs to no client.

    Raises:
        ConfigError: The partition cannot be drawn, for example because there are more clients than examples.
    """
    labels, (chosen, _) = dataset.train.y.numpy(), _split(experiment, dataset)
    draw = registry.build(partition.PARTITIONS, experiment.data.partition, "data.partition")
    owner = inspect.signature(draw).parameters.get("owner")
    if owner is not None and dataset.clients is not None:
        draw = partial(draw, owner=dataset.clients.numpy()[chosen])
    elif owner is not None and owner.default is owner.empty:
        refused = f"data.partition: {experiment.data.partition.name!r} is not allowed"
        raise ConfigError(f"{refused}: {dataset.name} does not say which client an example comes from")
    with component_errors("data.partition", experiment.data.partition.name):
        assigned = draw(labels[chosen], experiment.data.clients, stream(experiment.seed, "partition"))
    indices = partition.validate_partition(assigned, len(chosen), experiment.data.clients, experiment.data.partition.name)
    return [chosen[index] for index in indices]


def validation_examples(experiment: Experiment, dataset: Dataset) -> np.ndarray:
    """Indices of the training examples that are held out for validation, from the seed alone, ascending; none unless `data.validation`.

    Raises:
        ConfigError: `data.examples` or `data.validation` does not suit the dataset.
    """
    return _split(experiment, dataset)[1]


def _split(experiment: Experiment, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The examples for clients, and those held out for validation, by index, both ascending."""
    limit, share, there = experiment.data.examples, experiment.data.validation, len(dataset.train.y)
    if limit is not None and limit > there and not fallback_note(dataset, experiment):
        raise ConfigError(f"data.examples: {limit} is not allowed: {dataset.name} has {there} training examples")
    used = np.arange(there)
    if limit is not None and limit < there:
        used = np.sort(stream(experiment.seed, "examples").choice(there, size=limit, replace=False))
    if not share:
        return used, used[:0]
    size = round(share * len(used))
    if not 0 < size < len(used):
        left = "no example" if size == 0 else "all"
        raise ConfigError(f"data.validation: {share:g} is not allowed: of {len(used)} training examples it holds out {left}")
    held_out = np.sort(stream(experiment.seed, "validation").choice(used, size=size, replace=False))
    return np.setdiff1d(used, held_out), held_out


def batch_sizes(examples: int, batch_size: int, last_batch: LastBatch) -> list[int]:
    """Examples in each batch of an epoch of a client.

    >>> [batch_sizes(10, 4, last) for last in ("keep", "drop", "merge")], batch_sizes(3, 4, "drop")
    ([[4, 4, 2], [4, 4], [4, 6]], [3])
    """
    full, rest = divmod(examples, batch_size)
    sizes = [batch_size] * full
    if rest and (last_batch == "keep" or not full):
        return [*sizes, rest]
    return [*sizes[:-1], batch_size + rest] if rest and last_batch == "merge" else sizes


@dataclass(frozen=True)
class FederatedDataset:
    """A dataset on a device, partitioned over clients.

    Attributes:
        dataset: Its training images lie on `device`.
        indices: Index arrays into `dataset.train`, one per client.
        seed: Of batches, augmentation and samples.
        augmentations: Names of training augmentations.
        device: Where batches are made.
        dtype: Of the images in batches.
        held_out: Indices into `dataset.train` of the examples for validation.
    """

    dataset: Dataset
    indices: list[np.ndarray]
    seed: int
    augmentations: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    held_out: np.ndarray

    @classmethod
    def of(cls, experiment: Experiment, dataset: Dataset, device: torch.device, dtype: torch.dtype) -> FederatedDataset:
        """The federated dataset of an experiment. Raises `ConfigError` as `partition_examples`."""
        augmentations = dataset.augment if experiment.data.augment is None else experiment.data.augment
        x = dataset.train.x if device.type == "cpu" else dataset.train.x.contiguous()  # channels last is for the CPU
        resident = Images(x.to(device), dataset.train.y.to(device))
        indices, held_out = partition_examples(experiment, dataset), validation_examples(experiment, dataset)
        return cls(replace(dataset, train=resident), indices, experiment.seed, augmentations, device, dtype, held_out)

    def num_examples(self, client: int) -> int:
        """Number of examples of the client."""
        return len(self.indices[client])

    def class_counts(self, client: int) -> tuple[int, ...]:
        """Number of examples of the client, per class."""
        return tuple(np.bincount(self._labels[self.indices[client]], minlength=self.dataset.classes).tolist())

    def batches(
        self, client: int, round: int, *, batch_size: int, epochs: int, steps: int | None, last_batch: LastBatch = "keep"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented batches of a client's local training.

        Args:
            batch_size: Examples of a batch.
            epochs: Passes over the client's examples, where `steps` is None.
            steps: Number of batches, over as many passes as needed.
            last_batch: What becomes of a smaller last batch of an epoch.
        """
        sizes = batch_sizes(self.num_examples(client), batch_size, last_batch)
        order = stream(self.seed, "batches", round, client)
        rng = tensor_stream(self.seed, "augment", round, client, device=self.device) if self.augmentations else None
        taken, epoch = 0, 0
        while taken < steps if steps is not None else epoch < epochs:
            shuffled = torch.from_numpy(order.permutation(self.indices[client])[: sum(sizes)])
            for index in torch.split_with_sizes(shuffled, sizes):
                if taken == steps:
                    return
                yield self._load(self.dataset.train, index, rng)
                taken += 1
            epoch += 1

    def steps(self, client: int, *, batch_size: int, epochs: int, steps: int | None, last_batch: LastBatch = "keep") -> int:
        """Number of batches that `batches` yields."""
        return steps if steps is not None else epochs * len(batch_sizes(self.num_examples(client), batch_size, last_batch))

    def fixed_sample(self, client: int, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` examples of the client in a fixed random order, not augmented; all of them if it has fewer."""
        order = stream(self.seed, "peek", client).permutation(self.indices[client])[:count]
        return self._load(self.dataset.train, torch.from_numpy(order), None)

    def client_examples(self, *clients: int) -> Images:
        """Training examples of the clients as uint8 images, one client after another."""
        return self._images(np.concatenate([self.indices[client] for client in clients]))

    def validation(self, first: int, end: int) -> Images:
        """The examples `first` to `end` - 1 of those held out for validation, as uint8 images."""
        return self._images(self.held_out[first:end])

    def sample(self, count: int) -> Images:
        """A random sample of all training examples as uint8 images; all of them if there are fewer than `count`.

        Sample and order depend on the seed alone, not on the partition.
        """
        every = np.sort(np.concatenate(self.indices))
        return self._images(stream(self.seed, "sample").choice(every, size=min(count, len(every)), replace=False))

    @cached_property
    def _labels(self) -> np.ndarray:
        return self.dataset.train.y.cpu().numpy()

    def _images(self, indices: np.ndarray) -> Images:
        return self.dataset.train.select(torch.from_numpy(indices).to(self.device))

    def _load(self, images: Images, index: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        chosen = images.select(index.to(self.device))
        x = augmentation.normalize(chosen.x, self.dataset.mean, self.dataset.std, self.dtype)
        return (x if rng is None else augmentation.augment(x, self.augmentations, rng)), chosen.y
