"""The Flower ClientApp: decode the broadcast, train or evaluate, encode the update. It holds no formula.

The experiment travels in the node's run config under `experiment`, as one line of JSON; the client's number is the node config's
`partition-id`. So the app runs alike on every grid, Flower's own runtime included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from clients import corrections, optimizers
from clients.corrections.base import Correction, Sent
from clients.local import LocalResult, local_train
from clients.objective import Batch, NetworkObjective
from clients.optimizers.base import LocalOptimizer, State, Task
from fedsam import config, datasets, models, schedules, wire
from fedsam.config import Experiment
from fedsam.datasets import Dataset
from fedsam.evaluate import evaluate as evaluate_images
from fedsam.federation import FederatedDataset
from fedsam.network import Network
from fedsam.seeds import stream, tensor_stream

DTYPES = {"float32": torch.float32, "float64": torch.float64}
ENGINES = {"loop": NetworkObjective}


@dataclass(frozen=True)
class Workplace:
    """What the clients of one process share: everything but their own examples and state."""

    experiment: Experiment
    federation: FederatedDataset
    network: Network
    optimizer: LocalOptimizer
    correction: Correction

    @classmethod
    def of(cls, experiment: Experiment, dataset: Dataset) -> Workplace:
        """Deal the data and build the parts that the experiment names. Raises `ConfigError` where it cannot."""
        device = torch.device("cuda" if experiment.compute.gpus_per_actor else "cpu")
        dtype = DTYPES[experiment.compute.precision]
        return cls(
            experiment,
            FederatedDataset.of(experiment, dataset, device, dtype),
            network(experiment, dataset, device, dtype),
            optimizers.build(experiment.client.optimizer),
            corrections.build(experiment.client.correction),
        )

    def train(self, broadcast: wire.Broadcast, client: int, kept: Mapping[str, Tensor], state: State | None) -> LocalResult:
        """The client's local training of one round, with what it kept of the correction and of the optimizer's state."""
        settings, round = self.experiment.client, broadcast.round
        amount: dict[str, Any] = {"batch_size": settings.batch_size, "epochs": settings.epochs, "steps": settings.steps}
        task = Task(
            round=round,
            rounds=self.experiment.rounds,
            steps=self.federation.steps(client, **amount),
            class_counts=self.federation.class_counts(client),
            peek=lambda count: Batch(*self.federation.peek(client, count)),
        )
        batches = (Batch(x, y) for x, y in self.federation.batches(client, round, **amount))
        devices = [self.federation.device] if self.federation.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout and the like draw from the global generator: give each client its own
            torch.manual_seed(int(stream(self.experiment.seed, "dropout", round, client).integers(2**63)))
            return local_train(
                broadcast.vectors["w"],
                self.optimizer,
                self.correction,
                ENGINES[self.experiment.compute.engine](self.network),
                batches,
                stream(self.experiment.seed, "optimizer", round, client),
                task=task,
                lr_factor=self.lr_factor(round),
                received=broadcast.vectors,
                kept=kept,
                state=state,
                clip=settings.clip,
            )

    def lr_factor(self, round: int) -> float:
        """What the learning rate is multiplied by in a round."""
        return lr_factor(self.experiment, round)


def lr_factor(experiment: Experiment, round: int) -> float:
    """What the experiment's schedule multiplies the learning rate by in a round."""
    schedule = config.build(schedules.SCHEDULES, experiment.client.schedule, "client.schedule")
    return float(schedule(round, experiment.rounds))


def network(experiment: Experiment, dataset: Dataset, device: torch.device, dtype: torch.dtype) -> Network:
    """The experiment's network with its initial weights, which depend on the seed alone."""
    _, *image = dataset.train.x.shape
    generator = tensor_stream(experiment.seed, "initial weights")
    return Network(models.create(experiment.model, (image[0], image[1], image[2]), dataset.classes, generator), device, dtype)


class Places:
    """The workplace of the latest experiment, kept while messages of that experiment come.

    Args:
        dataset: The experiments' data, where the process already has it; default: loaded as the experiment says.
    """

    def __init__(self, dataset: Dataset | None = None) -> None:
        self._dataset = dataset
        self._key = ""
        self._place: Workplace | None = None

    def at(self, context: Context) -> Workplace:
        """The workplace of the experiment in a run config. Raises `ConfigError` or `DataError` where it cannot be set up."""
        key = str(context.run_config["experiment"])
        if self._place is None or key != self._key:
            experiment = Experiment.model_validate_json(key)
            data = experiment.data
            dataset = self._dataset or datasets.load(data.dataset, data.root, data.fallback)
            self._key, self._place = key, Workplace.of(experiment, dataset)
        return self._place


def make(dataset: Dataset | None = None) -> ClientApp:
    """The ClientApp, with a memory of its own; `dataset` as in `Places`."""
    made, places = ClientApp(), Places(dataset)

    @made.train()
    def train(message: Message, context: Context) -> Message:
        place = places.at(context)
        return within_memory(place, lambda: answer(place, message, context))

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        place = places.at(context)
        return within_memory(place, lambda: assess(place, message, context))

    @made.query("partition")
    def partition(message: Message, context: Context) -> Message:
        # Which client this node is; Flower's own runtime hands out node ids at random.
        metrics = MetricRecord({"partition-id": int(context.node_config["partition-id"])})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return made


def within_memory(place: Workplace, task: Callable[[], Message]) -> Message:
    """What `task` gives; if the GPU's memory runs out it is tried once more, with memory that is merely reserved given back.

    Raises:
        MemoryError: That was not enough; the message names what to change.
    """
    with suppress(torch.OutOfMemoryError):
        return task()
    torch.cuda.empty_cache()  # here, where no traceback holds the tensors of the first attempt
    try:
        return task()
    except torch.OutOfMemoryError as error:
        settings = place.experiment
        raise MemoryError(
            f"the GPU's memory is too small for client.batch_size {settings.client.batch_size}, measure.batch_size "
            f"{settings.measure.batch_size} and model {settings.model.name!r} with compute.gpus_per_actor "
            f"{settings.compute.gpus_per_actor:g}: lower the batch size or have fewer actors share a GPU ({error})"
        ) from error


def answer(place: Workplace, message: Message, context: Context) -> Message:
    """The reply to a `train` message: local training from the received vector; it carries the delta, or the vector if so asked."""
    start = time.perf_counter()
    client = int(context.node_config["partition-id"])
    broadcast = wire.decode_broadcast(message.content, place.federation.device)
    if "buffers" in broadcast.vectors:
        place.network.buffers = broadcast.vectors["buffers"]
    device = place.federation.device
    result = place.train(broadcast, client, _recall(context.state, broadcast.accepted, device), _resumed(context.state, device))
    _remember(context.state, result.kept, broadcast)
    if place.experiment.client.optimizer_state == "keep":
        context.state["optimizer"], context.state["optimizer-state"] = wire.encode_state(result.state)
    update = wire.Update(
        vectors={**_moved(broadcast, result), **_named(result.sent), **_buffers(place.network)},
        metrics=_metrics(place.federation.examples(client), result, time.perf_counter() - start),
    )
    return Message(wire.encode_update(update), reply_to=message)


def assess(place: Workplace, message: Message, context: Context) -> Message:
    """The reply to an `evaluate` message: loss and accuracy of the received vector on the client's own training examples."""
    broadcast = wire.decode_broadcast(message.content, place.federation.device)
    images = place.federation.held(int(context.node_config["partition-id"]))
    buffers = broadcast.vectors.get("buffers", place.network.buffers)
    got = evaluate_images(
        place.network, broadcast.vectors["w"], buffers, images, place.federation.dataset, place.experiment.measure.batch_size
    )
    metrics = MetricRecord({"num-examples": got.examples, "loss": got.loss, "accuracy": got.accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _recall(state: RecordDict, accepted: int | None, device: torch.device) -> dict[str, Tensor]:
    """The correction's vectors that count: what the last round left pending does so only if the server accepted that round's update."""
    pending, round = wire.record(state, "pending", ArrayRecord), wire.record(state, "pending-round", ConfigRecord)
    if pending is not None and round is not None:
        if int(str(round["round"])) == accepted:
            state["correction"] = pending
        del state["pending"], state["pending-round"]
    held = wire.record(state, "correction", ArrayRecord)
    return wire.tensors(held, device) if held else {}


def _resumed(state: RecordDict, device: torch.device) -> State | None:
    """The optimizer's state of the client's last round, where it was kept."""
    record, config = wire.record(state, "optimizer", ArrayRecord), wire.record(state, "optimizer-state", ConfigRecord)
    return None if record is None or config is None else wire.decode_state(record, config, device)


def _remember(state: RecordDict, kept: Mapping[str, Tensor], broadcast: wire.Broadcast) -> None:
    if not kept:
        return
    if broadcast.accepted is None:
        state["correction"] = wire.arrays(kept)
    else:
        state["pending"], state["pending-round"] = wire.arrays(kept), ConfigRecord({"round": broadcast.round})


def _moved(broadcast: wire.Broadcast, result: LocalResult) -> dict[str, Tensor]:
    if broadcast.reply == "delta":
        return {"delta": result.delta}
    return {"w": result.x}


def _buffers(network: Network) -> dict[str, Tensor]:
    buffers = network.buffers
    return {"buffers": buffers} if buffers.numel() else {}


def _named(sent: Sent) -> dict[str, Tensor]:
    return {f"mean.{name}": v for name, v in sent.mean.items()} | {f"population.{name}": v for name, v in sent.population.items()}


def _metrics(examples: int, result: LocalResult, seconds: float) -> dict[str, float]:
    return {
        "num-examples": examples,
        "steps": result.steps,
        "delta-norm": float(torch.linalg.vector_norm(result.delta, dtype=torch.float64)),
        "examples": result.examples,
        "train-loss": result.loss,
        "gradient-evaluations": result.gradient_evaluations,
        "forward-evaluations": result.forward_evaluations,
        "seconds": seconds,
        **{f"sent.{name}": value for name, value in result.sent.metrics.items()},
    }


app = make()
