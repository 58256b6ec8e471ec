"""The Flower ClientApp: decode the broadcast, train or evaluate, encode the update. It holds no formula.

The experiment travels in the node's run config under `experiment`, as one line of JSON; the client's number is the node config's
`partition-id`. So the app runs alike on every grid, Flower's own runtime included.
"""

from __future__ import annotations

import time

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from clients import queries
from clients.corrections.base import Payload
from clients.local import LocalResult
from clients.runtime import ClientRuntime, RuntimeCache
from fedsam.data.datasets import Dataset
from fedsam.evaluation.accuracy import evaluate as evaluate_images
from fedsam.messages import client_state, codec
from fedsam.models.network import Network


class FederatedClientApp(ClientApp):
    """A ClientApp whose local training can also be called past Flower's messages, as `fedsam.grid.serving.UpdatingClientApp`.

    Args:
        dataset: As in `RuntimeCache`.

    Attributes:
        cache: The process's runtime.
    """

    def __init__(self, dataset: Dataset | None = None) -> None:
        super().__init__()
        self.cache = RuntimeCache(dataset)
        self._decoded: tuple[RecordDict, codec.Broadcast] | None = None  # the last content, which the clients of a round share

    def train_update(self, content: RecordDict, context: Context) -> codec.Update:
        """What the reply to a `train` message with this content would hold."""
        runtime = self.cache.get(context)
        if self._decoded is None or self._decoded[0] is not content:
            self._decoded = content, codec.decode_broadcast(content, runtime.federation.device)
        update = trained(runtime, self._decoded[1], context)
        vectors = {name: vector.detach().to("cpu") for name, vector in update.vectors.items()}
        return codec.Update(vectors, {name: float(value) for name, value in update.metrics.items()})


def make(dataset: Dataset | None = None) -> ClientApp:
    """The ClientApp, with a memory of its own; `dataset` as in `RuntimeCache`."""
    made = FederatedClientApp(dataset)
    cache = made.cache

    @made.train()
    def train(message: Message, context: Context) -> Message:
        return answer(cache.get(context), message, context)

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return assess(cache.get(context), message, context)

    @made.query("partition")
    def partition(message: Message, context: Context) -> Message:
        # Which client this node is; Flower's own runtime hands out node ids at random.
        found = codec.Answer({"partition-id": int(context.node_config["partition-id"])})
        return Message(codec.encode_answer(found), reply_to=message)

    @made.query("speed")
    def speed(message: Message, context: Context) -> Message:
        return queries.speed(cache.get(context), message, context)

    @made.query("test")
    def test(message: Message, context: Context) -> Message:
        return queries.test(cache.get(context), message)

    @made.query("validation")
    def validation(message: Message, context: Context) -> Message:
        return queries.validation(cache.get(context), message)

    @made.query("union")
    def union(message: Message, context: Context) -> Message:
        return queries.union(cache.get(context), message)

    @made.query("flatness")
    def flatness(message: Message, context: Context) -> Message:
        return queries.flatness(cache.get(context), message)

    return made


def answer(runtime: ClientRuntime, message: Message, context: Context) -> Message:
    """The reply to a `train` message: local training from the received vector; it carries the delta, or the vector if so asked."""
    broadcast = codec.decode_broadcast(message.content, runtime.federation.device)
    return Message(codec.encode_update(trained(runtime, broadcast, context)), reply_to=message)


def trained(runtime: ClientRuntime, broadcast: codec.Broadcast, context: Context) -> codec.Update:
    """What local training from a broadcast gives; `context.state` becomes the client's new state."""
    start = time.perf_counter()
    client = int(context.node_config["partition-id"])
    device = runtime.federation.device
    correction = client_state.load_correction(context.state, broadcast.accepted, device)
    result = runtime.train(broadcast, client, correction, client_state.load_optimizer(context.state, device))
    client_state.save_correction(context.state, result.client_state, broadcast)
    if runtime.experiment.client.optimizer_state == "keep":
        client_state.save_optimizer(context.state, result.state)
    return codec.Update(
        vectors={**_moved(broadcast, result), **_named(result.payload), **_buffers(runtime.network)},
        metrics=_metrics(runtime.federation.num_examples(client), result, time.perf_counter() - start),
    )


def assess(runtime: ClientRuntime, message: Message, context: Context) -> Message:
    """The reply to an `evaluate` message: loss and accuracy of the received vector on the client's own training examples."""
    broadcast = codec.decode_broadcast(message.content, runtime.federation.device)
    images = runtime.federation.client_examples(int(context.node_config["partition-id"]))
    got = evaluate_images(
        runtime.network,
        broadcast.vectors["w"],
        runtime.receive(broadcast),
        images,
        runtime.federation.dataset,
        runtime.experiment.measure.batch_size,
    )
    metrics = {"num-examples": got.examples, "loss": got.loss, "accuracy": got.accuracy}
    return Message(codec.encode_answer(codec.Answer(metrics)), reply_to=message)


def _moved(broadcast: codec.Broadcast, result: LocalResult) -> dict[str, Tensor]:
    if broadcast.reply == "delta":
        return {"delta": result.delta}
    # What goes in place of the delta does so here too: a private client must not send where it really went.
    return {"w": result.x if result.payload.delta is None else broadcast.vectors["w"] + result.delta}


def _buffers(network: Network) -> dict[str, Tensor]:
    return {"buffers": network.buffers} if network.buffers_size else {}


def _named(payload: Payload) -> dict[str, Tensor]:
    return {f"mean.{name}": v for name, v in payload.mean.items()} | {f"population.{name}": v for name, v in payload.population.items()}


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
        **{f"sent.{name}": value for name, value in result.payload.metrics.items()},
    }


app = make()
