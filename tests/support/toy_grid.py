"""A toy app whose clients count their calls, and what tests of grids ask of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid.base import LocalGrid
from fedsam.grid.pool import ActorPool

CLIENTS = 9


def adding() -> ClientApp:
    """Adds the client's number to `w`, counts its calls in the state; client 3 raises from its second call on. Queries tell the process."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
        context.state["calls"] = MetricRecord({"n": calls})
        if client == 3 and calls > 1:
            raise ValueError("tired")
        w = message.content["arrays"].pop("w").numpy()  # takes it away: others must still find theirs
        reply = {"arrays": ArrayRecord({"w": Array(w + client)}), "metrics": MetricRecord({"calls": calls, "pid": os.getpid()})}
        return Message(RecordDict(reply), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"pid": os.getpid()})}), reply_to=message)

    return app


def ready(pool: ActorPool, make: Callable[[], ClientApp]) -> ActorPool:
    """The pool with its actors up and their app loaded."""
    pool.supply(make=make)
    pool.ready()
    return pool


def messages(clients: range = range(CLIENTS)) -> list[Message]:
    shared = ArrayRecord({"w": Array(np.arange(3.0))})
    return [Message(RecordDict({"arrays": shared}), dst_node_id=c + 1, message_type="train", group_id="1") for c in clients]


def outcome(reply: Message) -> object:
    if reply.has_error():
        return reply.error.code, reply.error.reason.splitlines()[0]
    return reply.metadata.src_node_id, reply.content["arrays"]["w"].numpy().tolist(), reply.content["metrics"]["calls"]


def pids(replies: Iterable[Message]) -> set[int]:
    return {int(reply.content["metrics"]["pid"]) for reply in replies}


def rounds(grid: LocalGrid, count: int = 3) -> list[list[object]]:
    return [[outcome(reply) for reply in grid.send_and_receive(messages())] for _ in range(count)]
