"""Partitions made by partitioners of flwr-datasets.

Legend: `labels: (N,)` classes.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsam.config import ConfigError

Ints = NDArray[np.integer[Any]]
Indices = NDArray[np.int64]


class FlowerPartitioner(Protocol):
    """The part of a partitioner of flwr-datasets that `from_flwr` uses."""

    dataset: Any

    @property
    def num_partitions(self) -> int:
        """Number of clients."""

    def load_partition(self, partition_id: int) -> Any:
        """The rows of a client."""


def is_partitioner(entry: object) -> bool:
    """Whether an object is a class with the interface of a partitioner of flwr-datasets."""
    return inspect.isclass(entry) and hasattr(entry, "load_partition") and hasattr(entry, "num_partitions")


def as_partition(kind: type[Any]) -> Callable[..., list[Indices]]:
    """A partition, a function of (labels, num_clients, rng), made of a class of partitioners, with its hyperparameters.

    `num_partitions` is the number of clients, `partition_by` the column `label`, and `seed` a number drawn from `rng`, unless they are
    given. The function raises `ConfigError` where the class refuses its settings or does not assign all examples.
    """
    known = list(inspect.signature(kind).parameters.values())
    taken = {parameter.name for parameter in known}

    def draw(labels: Ints, num_clients: int, rng: np.random.Generator, **settings: Any) -> list[Indices]:
        given = {name: value for name, value in settings.items() if value is not None}
        if given.get("num_partitions", num_clients) != num_clients:
            raise ConfigError(f"data.partition.num_partitions: {given['num_partitions']} is not allowed: data.clients is {num_clients}")
        usual = {"num_partitions": num_clients, "partition_by": "label", "seed": int(rng.integers(2**31))}
        try:
            return from_flwr(kind(**{name: value for name, value in usual.items() if name in taken} | given), labels)
        except Exception as error:  # partitioners raise exceptions of many types
            raise ConfigError(f"data.partition: {kind.__name__} is not allowed: {error}") from error

    ours = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("labels", "num_clients", "rng")]
    theirs = [
        parameter.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            annotation=Any,
            default=None if parameter.name in ("num_partitions", "partition_by", "seed") else parameter.default,
        )
        for parameter in known
    ]
    draw.__name__, draw.__doc__, draw.__annotations__ = kind.__name__, kind.__doc__, {}
    draw.__signature__ = inspect.Signature([*ours, *theirs])  # type: ignore[attr-defined]
    return draw


def from_flwr(
    partitioner: FlowerPartitioner, labels: Ints, make_dataset: Callable[[Mapping[str, list[int]]], Any] | None = None
) -> list[Indices]:
    """The partition that a new partitioner of flwr-datasets makes of `labels`, as the column `label`.

    Args:
        partitioner: One that has no dataset yet.
        make_dataset: Makes the dataset of the partitioner from columns; default: `datasets.Dataset.from_dict`.

    Raises:
        ModuleNotFoundError: The package `datasets`, which comes with flwr-datasets, is not installed.
        ValueError: The partitioner leaves examples out or assigns one twice.
    """
    rows = {"idx": list(range(len(labels))), "label": labels.tolist()}
    partitioner.dataset = (make_dataset or _huggingface())(rows)
    # The slice reads the column at once, not row by row.
    clients = range(partitioner.num_partitions)
    indices = [np.sort(np.asarray(partitioner.load_partition(client)["idx"][:], dtype=np.int64)) for client in clients]
    assigned = np.concatenate(indices)
    if not np.array_equal(np.sort(assigned), np.arange(len(labels))):
        raise ValueError(
            f"{type(partitioner).__name__} deals {len(assigned)} examples, {len(np.unique(assigned))} different, of {len(labels)}"
        )
    return indices


def _huggingface() -> Callable[[Mapping[str, list[int]]], Any]:
    try:
        make: Callable[[Mapping[str, list[int]]], Any] = importlib.import_module("datasets").Dataset.from_dict
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"flwr-datasets partitioners need the package datasets: pip install flwr-datasets ({error})") from error
    return make
