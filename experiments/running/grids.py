"""Grids for experiments: Ray, its actors and the data they share are set up once for all runs of a sweep."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import MessageType
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from clients import client_app
from experiments.running.actors import actor_pool, check_cpus, check_gpus
from experiments.running.run_process import RunProcess
from experiments.running.trial import try_out
from experiments.settings.catalogue import sources
from fedsam import plugins
from fedsam.config import Component, ConfigError, Experiment
from fedsam.data import datasets
from fedsam.data.datasets import DataError, Dataset, Images
from fedsam.data.federated import partition_examples
from fedsam.data.partition import PARTITIONS
from fedsam.formatting import plural
from fedsam.grid.inline import InlineGrid
from fedsam.grid.pool import ActorPool, Stored
from fedsam.grid.process import resume_collection
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.ray_start import WhenLost
from fedsam.grid.serving import LocalServer
from fedsam.grid.session import is_ray_here
from fedsam.module_sources import Source

QUICK_MESSAGES = (MessageType.TRAIN, "query.test", "query.validation")  # for a client that trains for seconds at most


@contextmanager
def grids(
    experiments: Sequence[Experiment],
    cache: DatasetCache | None = None,
    phase: Callable[[str], None] = lambda _: None,
    lost: WhenLost | None = None,
) -> Iterator[ActorGroup]:
    """As `actor_groups`, for one run at a time."""
    with actor_groups(experiments, 1, cache, phase, lost) as (group,):
        yield group


@contextmanager
def actor_groups(
    experiments: Sequence[Experiment],
    parallel: int,
    cache: DatasetCache | None = None,
    phase: Callable[[str], None] = lambda _: None,
    lost: WhenLost | None = None,
) -> Iterator[list[ActorGroup]]:
    """Actor groups, each for one run at a time, that give experiments their grids; all is stopped at the end of the block.

    On the inline grid each of several groups has a process instead.

    Args:
        cache: Datasets that are loaded already.
        phase: Told what begins, which may take long.
        lost: As of `ray_session`.

    Raises:
        ConfigError: The experiments ask for different Ray clusters or actors, or for more than there is, a group would have no actor, data
            cannot be used, or what a script or notebook defines would have to be sent to a process.
        DataError: A dataset cannot be had.
    """
    computes = {e.compute.model_copy(update={"precision": "float32", "shard_size": None}) for e in experiments}
    if len(computes) > 1:
        raise ConfigError("compute: the experiments of a sweep run on the same actors; only precision and shard_size may differ")
    compute, cache = computes.pop(), cache or DatasetCache()
    check_gpus(compute)
    resume_collection()  # nearly all is imported by now
    _check_own(experiments, cache)
    try_out(experiments, cache.get)
    if compute.grid == "inline":
        check_cpus(compute)
        with _run_processes(experiments, parallel) as processes:
            yield [ActorGroup(cache, process=process) for process in processes]
        return
    if compute.actors:
        _check_share(parallel, compute.actors)
    # Several runs are threads here, which would share torch's generators; a cluster's head may have no core free.
    serves_locally = parallel == 1 and not compute.gpus_per_actor and compute.ray_address is None and not is_ray_here()
    phase("starting Ray")
    # Ray starts, and the actors import what they need, while this process goes on.
    with actor_pool(compute, load_clients, lost, beside=serves_locally) as pool:
        _check_share(parallel, pool.size)
        phase(f"starting {plural(pool.size, 'actor')}, each of which imports torch")
        yield [ActorGroup(cache, part, serves_locally=serves_locally) for part in pool.split(parallel)]


def _check_own(experiments: Sequence[Experiment], cache: DatasetCache) -> None:
    """Read and partition the user's own data, and try partitions that may refuse a dataset, before anything starts."""
    ours = set(PARTITIONS) - {"natural"}
    for experiment in {(e.data.model_dump_json(), e.seed): e for e in experiments}.values():
        if datasets.is_own(experiment.data.source) or experiment.data.partition.name not in ours:
            partition_examples(experiment, cache.get(experiment))


@contextmanager
def _run_processes(experiments: Sequence[Experiment], parallel: int) -> Iterator[list[RunProcess | None]]:
    """A process for each of the inline runs at once, which end with the block; none, but this one, where there is one at a time."""
    if parallel < 1:
        raise ConfigError(f"parallel: {parallel} is not allowed: at least one run is made at once")
    if parallel > 1:
        for experiment in experiments:
            sources(experiment, to_send=True)
    processes = [RunProcess() for _ in range(parallel)] if parallel > 1 else []
    try:
        yield [*processes] or [None]
    finally:
        for process in processes:
            process.close()


def _check_share(parallel: int, actors: int) -> None:
    if not 1 <= parallel <= actors:
        raise ConfigError(f"parallel: {parallel} is not allowed: compute.actors is {actors}, and each run needs one")


class ActorGroup:
    """The actors, or this process, that serve the clients of one run at a time.

    Args:
        serves_locally: Whether this process may serve clients, as `RayGrid.local_server` does.

    Attributes:
        size: How many clients train at once.
        process: Makes the runs of this group elsewhere; None: they are made in this process.
    """

    def __init__(
        self, cache: DatasetCache, pool: ActorPool | None = None, process: RunProcess | None = None, *, serves_locally: bool = False
    ) -> None:
        self._cache, self._pool, self.process, self._serves_locally = cache, pool, process, serves_locally
        self._loaded: object = None
        self.size = pool.size if pool else 1

    def __call__(self, experiment: Experiment) -> tuple[Grid, Dataset]:
        """The experiment's grid and its data. Raises `DataError` if the data cannot be had."""
        dataset, clients, settings = self._cache.get(experiment), experiment.data.clients, {"experiment": experiment.dumps()}
        compute, load = experiment.compute, partial(client_app.make, dataset)
        if self._pool is None:
            return InlineGrid(load, clients, settings, compute.cpus_per_actor, compute.shard_size), dataset
        modules = sources(experiment)
        if self._loaded != (source(experiment), modules):
            self._pool.supply(dataset=Stored(partial(self._cache.stored, experiment)), modules=modules)
            self._loaded = source(experiment), modules
        grid = RayGrid(self._pool, clients, settings, compute.shard_size)
        grid.local_server = LocalServer(load, compute.cpus_per_actor, QUICK_MESSAGES) if self._serves_locally else None
        return grid, dataset

    def stop(self) -> None:
        """End the actors or the process, from another thread than the run's, which is interrupted once it needs them."""
        if self._pool is not None:
            self._pool.stop()
        if self.process is not None:
            self.process.stop()


def load_clients(dataset: Any, modules: Sequence[Source]) -> ClientApp:
    """Our ClientApp in an actor's process, on data shared through the object store.

    Args:
        dataset: Arrays in place of tensors.
        modules: What components are imported from, as it is in the driver's process; this machine may not have the files.
    """
    plugins.receive(modules)
    with warnings.catch_warnings():
        # Shared memory cannot be written, and torch says so; nobody writes to the images.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return client_app.make(_mapped(dataset, lambda x: torch.from_numpy(x).movedim(-1, 1), torch.from_numpy))


class DatasetCache:
    """The datasets of a sweep, each loaded once, and put into Ray's object store once. One that cannot be had is not tried again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._datasets: dict[object, Dataset] = {}
        self._missing: dict[object, str] = {}
        self._stored: dict[object, Any] = {}

    def get(self, experiment: Experiment) -> Dataset:
        """The experiment's dataset. Raises `DataError` if it cannot be had."""
        wanted = source(experiment)
        with self._lock:
            if wanted in self._missing:
                raise DataError(self._missing[wanted])
            if wanted not in self._datasets:
                try:
                    self._datasets[wanted] = datasets.load(*wanted)
                except DataError as error:
                    self._missing[wanted] = str(error)
                    raise
            return self._datasets[wanted]

    def has(self, experiment: Experiment) -> bool:
        """Whether the experiment's dataset can be had; it is loaded, and downloaded if need be."""
        with suppress(DataError):
            return bool(self.get(experiment))
        return False

    def stored(self, experiment: Experiment) -> Any:
        """A reference to the experiment's dataset in the object store, with arrays in place of tensors."""
        import ray

        dataset = self.get(experiment)
        with self._lock:
            if source(experiment) not in self._stored:
                self._stored[source(experiment)] = ray.put(_numpy(dataset))
            return self._stored[source(experiment)]


def source(experiment: Experiment) -> tuple[str | Component, Path | None, str | None]:
    """What decides which dataset an experiment uses."""
    return experiment.data.dataset, experiment.data.root, experiment.data.fallback


def _numpy(dataset: Dataset) -> Any:
    """The dataset with arrays in place of tensors, its images (N, H, W, C): Ray shares such arrays between processes, and copies others."""
    return _mapped(dataset, lambda x: x.movedim(1, -1).numpy(), torch.Tensor.numpy)


def _mapped(dataset: Dataset, images: Callable[[Any], Any], others: Callable[[Any], Any]) -> Any:
    train, test = (Images(images(part.x), others(part.y)) for part in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test, clients=None if dataset.clients is None else others(dataset.clients))
