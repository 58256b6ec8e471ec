"""Grids for experiments: Ray, its actors and the data they share are set up once for all runs of a sweep."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from clients import app as client_app
from experiments.pools import actor_pool
from fedsam import datasets
from fedsam.config import ConfigError, Experiment
from fedsam.datasets import Dataset, Images
from fedsam.grid import InlineGrid
from fedsam.ray_grid import RayGrid

GridOf = Callable[[Experiment], tuple[Grid, Dataset]]


@contextmanager
def grids(experiments: Sequence[Experiment]) -> Iterator[GridOf]:
    """A function that gives each of the experiments its grid and its data; what it started is stopped at the end of the block.

    Raises:
        ConfigError: The experiments ask for different Ray clusters or actors, or for more than there is.
    """
    computes = {e.compute.model_copy(update={"precision": "float32", "shard_size": None}) for e in experiments}
    if len(computes) > 1:
        raise ConfigError("compute: the experiments of a sweep run on the same actors; only precision and shard_size may differ")
    compute, data = computes.pop(), Shelf()
    if compute.grid == "inline":

        def inline(experiment: Experiment) -> tuple[Grid, Dataset]:
            dataset, settings = data.get(experiment), experiment.compute
            made = partial(client_app.make, dataset)
            return InlineGrid(made, experiment.data.clients, _config(experiment), settings.cpus_per_actor, settings.shard_size), dataset

        yield inline
        return
    # The actors import what they need while this process loads the data.
    with actor_pool(compute, load_clients) as pool:

        def grid_of(experiment: Experiment) -> tuple[Grid, Dataset]:
            if not data.holds(experiment):
                pool.supply(dataset=_numpy(data.get(experiment)))
            return RayGrid(pool, experiment.data.clients, _config(experiment), experiment.compute.shard_size), data.get(experiment)

        yield grid_of


def load_clients(dataset: Any) -> ClientApp:
    """Our ClientApp in an actor's process, on data shared through the object store; `dataset` holds arrays in place of tensors."""
    with warnings.catch_warnings():
        # Shared memory cannot be written, and torch says so; nobody writes to the images.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return client_app.make(_mapped(dataset, torch.from_numpy))


class Shelf:
    """The dataset of the latest experiment; the runs of a sweep mostly share it."""

    def __init__(self) -> None:
        self._key: object = None
        self._dataset: Dataset | None = None

    def holds(self, experiment: Experiment) -> bool:
        """Whether the experiment's dataset is at hand."""
        return self._key == _source(experiment)

    def get(self, experiment: Experiment) -> Dataset:
        """The experiment's dataset. Raises `DataError` if it cannot be had."""
        if self._dataset is None or not self.holds(experiment):
            self._dataset, self._key = datasets.load(*_source(experiment)), _source(experiment)
        return self._dataset


def _source(experiment: Experiment) -> tuple[Any, ...]:
    return experiment.data.dataset, experiment.data.root, experiment.data.fallback


def _config(experiment: Experiment) -> dict[str, str]:
    return {"experiment": experiment.dumps()}


def _numpy(dataset: Dataset) -> Any:
    """The dataset with arrays in place of tensors: Ray shares arrays between processes and copies tensors."""
    return _mapped(dataset, torch.Tensor.numpy)


def _mapped(dataset: Dataset, change: Callable[[Any], Any]) -> Any:
    train, test = (Images(change(part.x), change(part.y)) for part in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test)
