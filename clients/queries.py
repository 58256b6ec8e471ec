"""What clients answer when asked about a global vector: the replies to `query` messages. No formula, and no client's state changes.

The content of each query is that of `codec.encode_query`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from flwr.app import Context, Message

from clients.runtime import ClientRuntime
from fedsam.data.datasets import Images
from fedsam.evaluation import flatness as measures
from fedsam.evaluation.accuracy import evaluate, score
from fedsam.evaluation.sharpness import LossSlice
from fedsam.messages import codec


def speed(runtime: ClientRuntime, message: Message, context: Context) -> Message:
    """The reply to `query.speed`: `seconds` per local step of the client, from the second of two trainings of `steps` local steps."""
    broadcast, asked = codec.decode_query(message.content, runtime.federation.device)
    broadcast = replace(broadcast, cohort=1)  # which some corrections want to know
    client, settings = int(context.node_config["partition-id"]), runtime.experiment.client.model_copy(update={"steps": int(asked["steps"])})
    probe = replace(runtime, experiment=runtime.experiment.model_copy(update={"client": settings}))
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        trained = probe.train(broadcast, client, {}, None)
        seconds = (time.perf_counter() - start) / trained.steps
    return Message(codec.encode_answer(codec.Answer({"seconds": seconds})), reply_to=message)


def test(runtime: ClientRuntime, message: Message) -> Message:
    """The reply to `query.test`: the `Scores` of the batches `from` to `to` - 1 of the test set."""
    images = runtime.federation.dataset.test
    return _scored(runtime, message, lambda first, end: Images(images.x[first:end], images.y[first:end]))


def validation(runtime: ClientRuntime, message: Message) -> Message:
    """The reply to `query.validation`: the `Scores` of the batches `from` to `to` - 1 of the examples held out for validation."""
    return _scored(runtime, message, runtime.federation.validation)


def _scored(runtime: ClientRuntime, message: Message, images: Callable[[int, int], Images]) -> Message:
    """The reply with the `Scores` of the batches `from` to `to` - 1 of `images`, which gives those from one index to before another."""
    start = time.perf_counter()
    broadcast, asked = codec.decode_query(message.content, runtime.federation.device)
    size = runtime.experiment.measure.batch_size
    part = images(int(asked["from"]) * size, int(asked["to"]) * size)
    w, buffers = broadcast.vectors["w"], runtime.receive(broadcast)
    scores = score(runtime.network, w, buffers, part, runtime.federation.dataset, size)
    cost = {"seconds": time.perf_counter() - start}
    return Message(codec.encode_answer(codec.Answer(cost=cost, vectors=vars(scores))), reply_to=message)


def union(runtime: ClientRuntime, message: Message) -> Message:
    """The reply to `query.union`: sums of loss and right answers over the training examples of the clients `from` to `to` - 1."""
    start = time.perf_counter()
    broadcast, asked = codec.decode_query(message.content, runtime.federation.device)
    images, dataset = runtime.federation.client_examples(*range(int(asked["from"]), int(asked["to"]))), runtime.federation.dataset
    found = evaluate(
        runtime.network, broadcast.vectors["w"], runtime.receive(broadcast), images, dataset, runtime.experiment.measure.batch_size
    )
    sums = {"num-examples": found.examples, "total-loss": found.total_loss, "correct": sum(found.correct_per_class)}
    return Message(codec.encode_answer(codec.Answer(sums, {"seconds": time.perf_counter() - start})), reply_to=message)


def flatness(runtime: ClientRuntime, message: Message) -> Message:
    """The reply to `query.flatness`: the values of `measure`, what they took, and the losses of a slice row by row."""
    broadcast, asked = codec.decode_query(message.content, runtime.federation.device)
    settings, federation = runtime.experiment.measure.flatness, runtime.federation
    found = measures.measure(
        str(asked["measure"]),
        runtime.network,
        broadcast.vectors["w"],
        runtime.receive(broadcast),
        federation.sample(settings.examples),
        federation.dataset,
        settings,
        runtime.experiment.seed,
    )
    gradients, forwards = found.cost
    cost = {"gradient-evaluations": gradients, "forward-evaluations": forwards, "seconds": found.seconds}
    answer = codec.Answer(found.values, cost, {} if found.slice is None else _losses(found.slice))
    return Message(codec.encode_answer(answer), reply_to=message)


def _losses(found: LossSlice) -> dict[str, list[float]]:
    return {"alphas": list(found.alphas), "losses": found.losses.flatten().tolist()}
