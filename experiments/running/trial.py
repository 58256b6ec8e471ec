"""A trial of an experiment before anything starts, so that what cannot work is an error of the settings and no failed run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import strategies
from clients import corrections, optimizers, runtime
from clients.objective import Batch, NetworkObjective
from clients.runtime import ClientRuntime
from experiments.callbacks.named import callback_classes
from fedsam import schedules
from fedsam.config import ConfigError, Experiment
from fedsam.data.datasets import DataError, Dataset, Images
from fedsam.data.federated import FederatedDataset, batch_sizes, partition_examples
from fedsam.messages.codec import Broadcast
from fedsam.plugins import component_errors
from fedsam.seeds import seeded_globals


def try_out(experiments: Sequence[Experiment], dataset_of: Callable[[Experiment], Dataset]) -> None:
    """Try the experiments: those that differ in numbers alone once, and without those whose dataset cannot be had.

    Raises:
        ConfigError: A model, optimizer, correction or callback cannot be used, or a model cannot train on one of the batches.
    """
    tried = dict[str, str | None]()
    for experiment in experiments:
        callback_classes(experiment)
        try:
            dataset = dataset_of(experiment)
        except DataError:
            continue
        kind = _kind(experiment)
        if kind not in tried:
            tried[kind] = _try(experiment, dataset)
        if (reason := tried[kind]) is not None:
            _check_batches(experiment, dataset, reason)


def _kind(experiment: Experiment) -> str:
    """Equal for experiments of which one trial is enough."""
    components = experiment.client.optimizer, experiment.client.correction, experiment.server.strategy
    names = [(one.name, sorted(item for item in one.settings.items() if not isinstance(item[1], float))) for one in components]
    compute = experiment.compute.precision, experiment.compute.gpus_per_actor > 0
    return repr((experiment.data.dataset, experiment.data.root, experiment.model.model_dump_json(), names, compute))


def _try(experiment: Experiment, dataset: Dataset) -> str | None:
    """Score a few examples and take a local step on them; why the model cannot train on a single one, None where it can.

    Two examples are enough for most; where they are not, it takes a whole batch. The global generators stay as they are.
    """
    few, usual = 2, min(experiment.client.batch_size, len(dataset.train.y) // experiment.data.clients)
    with warnings.catch_warnings(), seeded_globals(0):
        warnings.simplefilter("ignore")  # the run itself gives them
        try:
            return _step(experiment, dataset, few)
        except ConfigError:
            if usual <= few:
                raise
            return _step(experiment, dataset, usual)


def _step(experiment: Experiment, dataset: Dataset, examples: int) -> str | None:
    trial = _runtime(experiment, dataset, examples)
    model, network = experiment.model.name, trial.network
    w, objective = network.initial, NetworkObjective(network)
    batch = Batch(*next(trial.federation.batches(0, 1, batch_size=examples, epochs=1, steps=1)))
    images = f"images of shape {tuple(batch.x.shape)}"
    with component_errors("model", model):
        with torch.no_grad(), network.evaluating():
            _check_scores(network(w, batch.x), (batch.size, dataset.classes), f"model: {model!r} is not allowed: for {images} it gives")
        objective.grad(w, batch)
    trial.optimizer.check(network.layout)
    rule: Any = strategies.build(experiment.server.strategy)
    vectors = {**rule.broadcast(w.cpu(), rule.init_state(w.cpu())), "buffers": network.buffers.cpu()}
    broadcast = Broadcast({name: vector.to(w.device) for name, vector in vectors.items()}, 1, cohort=1)
    with component_errors("client.optimizer", experiment.client.optimizer.name):
        trial.train(broadcast, 0, {}, None)
    try:
        objective.losses(w, batch[:1])
    except Exception as error:
        return str(error)
    return None


def _runtime(experiment: Experiment, dataset: Dataset, examples: int) -> ClientRuntime:
    """The runtime of one client that has the first examples and takes one step, on the device that evaluates."""
    gpu = experiment.compute.gpus_per_actor > 0 and torch.cuda.is_available()
    device, dtype = torch.device("cuda" if gpu else "cpu"), runtime.DTYPES[experiment.compute.precision]
    augmentations = dataset.augment if experiment.data.augment is None else experiment.data.augment
    first = Images(dataset.train.x[:examples].to(device), dataset.train.y[:examples].to(device))
    indices = [np.arange(len(first.y))]
    step = experiment.client.model_copy(update={"batch_size": examples, "steps": 1})
    return ClientRuntime(
        experiment.model_copy(update={"client": step}),
        FederatedDataset(replace(dataset, train=first), indices, experiment.seed, augmentations, device, dtype, indices[0][:0]),
        runtime.network(experiment, dataset, device, dtype),
        optimizers.build(experiment.client.optimizer),
        corrections.build(experiment.client.correction),
        schedules.build(experiment.client.schedule),
        schedules.build(experiment.client.rho_schedule, "client.rho_schedule"),
    )


def _check_scores(scores: object, expected: tuple[int, int], refused: str) -> None:
    """Raise `ConfigError`, with a text that begins so, unless there is one score for each example and class (B, classes)."""
    if isinstance(scores, Tensor) and tuple(scores.shape) == expected and scores.is_floating_point():
        return
    what = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
    raise ConfigError(f"{refused} {what}, not a tensor of scores of shape {expected}")


def _check_batches(experiment: Experiment, dataset: Dataset, reason: str) -> None:
    """Raise `ConfigError` where a client trains on a single example, with which its model cannot, for the given reason."""
    settings = experiment.client
    because = f"model {experiment.model.name!r} cannot train on a single example ({reason})"
    for client, own in enumerate(partition_examples(experiment, dataset)):
        if 1 not in batch_sizes(len(own), settings.batch_size, settings.last_batch)[: settings.steps]:
            continue
        if settings.batch_size == 1:
            raise ConfigError(f"client.batch_size: 1 is not allowed: {because}")
        if len(own) == 1:
            raise ConfigError(f"data.partition: is not allowed here: client {client} has one example, and {because}")
        raise ConfigError(
            f"client.last_batch: {settings.last_batch!r} is not allowed here: the last batch of client {client} is a single example "
            f"({len(own)} in batches of {settings.batch_size}), and {because}; allowed: drop, merge"
        )
