"""What clients answer when asked about a global vector: the replies to `query` messages. No formula, and no client's state changes.

Each asks by the content that `wire.encode_query` makes.
"""

from __future__ import annotations

import time
from dataclasses import replace

from flwr.app import Context, Message, MetricRecord, RecordDict

from clients.workplace import Workplace
from fedsam import wire


def speed(place: Workplace, message: Message, context: Context) -> Message:
    """The reply to `query.speed`: `seconds` per local step of the client, from the second of two trainings of `steps` local steps."""
    broadcast, asked = wire.decode_query(message.content, place.federation.device)
    client, settings = int(context.node_config["partition-id"]), place.experiment.client.model_copy(update={"steps": int(asked["steps"])})
    probe = replace(place, experiment=place.experiment.model_copy(update={"client": settings}))
    for _ in range(2):  # the first warms up
        if "buffers" in broadcast.vectors:
            place.network.buffers = broadcast.vectors["buffers"]
        start = time.perf_counter()
        trained = probe.train(broadcast, client, {}, None)
        seconds = (time.perf_counter() - start) / trained.steps
    return Message(RecordDict({"metrics": MetricRecord({"seconds": seconds})}), reply_to=message)
