"""What the clients of one process share: data, network and the components that the experiment names. It holds no formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from flwr.app import Context
from torch import Tensor

from clients import corrections, optimizers
from clients.corrections.base import Correction
from clients.local import LocalResult, local_train
from clients.objective import Batch, NetworkObjective
from clients.optimizers.base import LocalOptimizer, State, Task, may_draw
from fedsam import schedules
from fedsam.config import ConfigError, Experiment
from fedsam.data import datasets
from fedsam.data.datasets import Dataset
from fedsam.data.federated import FederatedDataset
from fedsam.messages import codec
from fedsam.models import architectures
from fedsam.models.network import Network, exact_on_gpus
from fedsam.schedules import LocalRate
from fedsam.seeds import seeded_globals, stream

DTYPES = {"float32": torch.float32, "float64": torch.float64}
NO_DRAWS = stream(0, "no draws")  # for optimizers that make none: to make a generator takes 12 µs, which a short client would notice


@dataclass(frozen=True)
class ClientRuntime:
    """What the clients of one process share: everything but their own examples and state."""

    experiment: Experiment
    federation: FederatedDataset
    network: Network
    optimizer: LocalOptimizer
    correction: Correction
    schedule: Callable[[int, int], float]
    rho_schedule: Callable[[int, int], float] = schedules.constant

    @classmethod
    def of(cls, experiment: Experiment, dataset: Dataset) -> ClientRuntime:
        """Partition the data and build the components that the experiment names. Raises `ConfigError` where it cannot."""
        device = torch.device("cuda" if experiment.compute.gpus_per_actor else "cpu")
        dtype = DTYPES[experiment.compute.precision]
        return cls(
            experiment,
            FederatedDataset.of(experiment, dataset, device, dtype),
            network(experiment, dataset, device, dtype),
            optimizers.build(experiment.client.optimizer),
            corrections.build(experiment.client.correction),
            schedules.build(experiment.client.schedule),
            schedules.build(experiment.client.rho_schedule, "client.rho_schedule"),
        )

    def receive(self, broadcast: codec.Broadcast) -> Tensor:
        """The broadcast's running statistics (Q,), which become the network's; whatever else an earlier client changed in it is undone.

        Raises:
            ConfigError: The tensors of the model that do not travel are not the server's.
            WireError: The statistics are missing.
        """
        if broadcast.constants not in (None, self.network.constants):
            names = ", ".join(self.network.constant_names)
            raise ConfigError(
                f"model: tensors that the server does not send ({names}) differ from the server's: the model reads files that differ "
                "between machines, or draws from a generator that the seed does not reach"
            )
        buffers, wanted = broadcast.vectors.get("buffers", torch.empty(0)), self.network.buffers_size
        if buffers.numel() != wanted:
            raise codec.WireError(f"a broadcast for this model holds an array 'buffers' of {wanted} scalars, not {buffers.numel()}")
        self.network.buffers = buffers
        return buffers

    def train(self, broadcast: codec.Broadcast, client: int, client_state: Mapping[str, Tensor], state: State | None) -> LocalResult:
        """The client's local training of one round, from its correction's and its optimizer's state; raises as `receive`."""
        self.receive(broadcast)
        settings, round = self.experiment.client, broadcast.round
        amount: dict[str, Any] = {name: getattr(settings, name) for name in ("batch_size", "epochs", "steps", "last_batch")}
        task = Task(
            round=round,
            rounds=schedules.known_rounds(self.experiment, "client.optimizer", settings.optimizer),
            steps=self.federation.steps(client, **amount),
            class_counts=self.federation.class_counts(client),
            peek=lambda count: Batch(*self.federation.fixed_sample(client, count)),
        )
        batches, again = ((Batch(x, y) for x, y in self.federation.batches(client, round, **amount)) for _ in range(2))
        radii = self.rho_schedule(round, schedules.known_rounds(self.experiment, "client.rho_schedule", settings.rho_schedule))
        optimizer = self.optimizer if radii == 1 else self.optimizer.with_radii(radii)
        devices = [self.federation.device] if self.federation.device.type == "cuda" else []
        with seeded_globals(int(stream(self.experiment.seed, "dropout", round, client).integers(2**63)), devices):
            return local_train(
                broadcast.vectors["w"],
                optimizer,
                self.correction,
                NetworkObjective(self.network, settings.label_smoothing),
                batches,
                stream(self.experiment.seed, "optimizer", round, client) if may_draw(optimizer) else NO_DRAWS,
                task=task,
                lr_factor=self.lr_factor(round),
                rate=LocalRate(settings.rate_floor),
                server_payload=broadcast.vectors,
                client_state=client_state,
                state=state,
                clip=settings.clip,
                statistics_batches=islice(again, settings.statistics_batches),
                cohort=broadcast.cohort,
                correction_rng=partial(self.correction_rng, round, client),
            )

    def correction_rng(self, round: int, client: int) -> np.random.Generator:
        """For what the correction of a client draws after its last step of a round."""
        return stream(self.experiment.seed, "correction", round, client)

    def lr_factor(self, round: int) -> float:
        """What the learning rate is multiplied by in a round."""
        return lr_factor(self.experiment, self.schedule, round)


def lr_factor(experiment: Experiment, schedule: Callable[[int, int], float], round: int) -> float:
    """What the experiment's schedule, built, multiplies the learning rate by in a round."""
    return float(schedule(round, schedules.known_rounds(experiment, "client.schedule", experiment.client.schedule)))


def network(experiment: Experiment, dataset: Dataset, device: torch.device, dtype: torch.dtype) -> Network:
    """The experiment's network with its initial weights, which depend on the seed alone.

    On a GPU torch computes with all bits of float32 from then on, and deterministically in convolutions, in the whole process.
    """
    if device.type == "cuda":
        exact_on_gpus()
    _, *image = dataset.train.x.shape
    draws = architectures.initial_draws(experiment.seed)
    return Network(architectures.create(experiment.model, (image[0], image[1], image[2]), dataset.classes, draws), device, dtype)


class RuntimeCache:
    """The runtime of the latest experiment, kept while messages of that experiment come.

    Args:
        dataset: The experiments' data, where the process already has it; default: loaded as the experiment says.
    """

    def __init__(self, dataset: Dataset | None = None) -> None:
        self._dataset = dataset
        self._key = ""
        self._runtime: ClientRuntime | None = None

    def get(self, context: Context) -> ClientRuntime:
        """The runtime of the experiment in a run config. Raises `ConfigError` or `DataError` where it cannot be set up."""
        key = str(context.run_config["experiment"])
        if self._runtime is None or key != self._key:
            experiment = Experiment.model_validate_json(key)
            data = experiment.data
            dataset = self._dataset or datasets.load(data.dataset, data.root, data.fallback)
            self._key, self._runtime = key, ClientRuntime.of(experiment, dataset)
        return self._runtime
