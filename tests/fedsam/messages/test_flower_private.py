"""Flower's private parts are where they were, and its weighted means may be merged."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, Strategy

from fedsam.grid.inline import InlineGrid
from fedsam.messages import flower_private


def test_flower_has_the_private_parts_that_are_used() -> None:
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION == flower_private.CLIENT_APP_RAISED
    assert ErrorCode.REPLY_MESSAGE_UNAVAILABLE == flower_private.REPLY_UNAVAILABLE
    run = flower_private.new_run()
    assert (flower_private.Run, run.run_id) == (type(run), 1)
    run.run_id = 7
    flower_private.set_current_run(run)
    message = Message(RecordDict(), dst_node_id=3, message_type="train")
    assert (message.metadata.run_id, message.metadata.src_node_id) == (7, 0)
    flower_private.set_message_id(message, "12")
    assert message.metadata.message_id == "12"
    arrived = flower_private.make_message(message.metadata, message.content)
    assert Message(RecordDict(), reply_to=arrived).metadata.reply_to_message_id == "12"
    flower_private.set_current_run(flower_private.new_run())


def test_the_grid_has_flowers_methods() -> None:
    missing = [name for name, _ in inspect.getmembers(Grid) if not name.startswith("_") and not hasattr(InlineGrid, name)]
    assert not missing
    assert not InlineGrid.__abstractmethods__


def load() -> ClientApp:
    """Clients that send their number, and so many examples; client 5 fails."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        if client == 5:
            raise ValueError("tired")
        w = message.content["arrays"]["w"].numpy() + client
        metrics = MetricRecord({"num-examples": client + 1, "loss": client / 10})
        return Message(RecordDict({"arrays": ArrayRecord({"w": Array(w)}), "metrics": metrics}), reply_to=message)

    return app


@pytest.mark.parametrize("kind", [FedAvg, FedAdam])
def test_flowers_means_are_the_same_of_merged_replies(kind: type[FedAvg]) -> None:
    found = []
    for merged in (False, True):
        strategy = kind(fraction_evaluate=0.0)
        config = flower_private.make_merge_config(strategy) if merged else None
        start = ArrayRecord({"w": Array(np.zeros(3))})
        result = strategy.start(InlineGrid(load, 8, {}, shard_size=3), start, num_rounds=3, train_config=config)
        found.append((result.arrays["w"].numpy(), result.train_metrics_clientapp[3]["loss"]))
    assert np.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert found[0][0][0] != 0
    assert found[0][1] == pytest.approx(found[1][1])


def test_an_actor_answers_once_for_its_shard_and_for_each_client_that_failed() -> None:
    grid, content = InlineGrid(load, 8, {}, shard_size=3), {"arrays": ArrayRecord({"w": Array(np.zeros(3))})}
    asked = [
        Message(RecordDict({**content, "config": flower_private.make_merge_config(FedAvg())}), dst_node_id=n, message_type="train")
        for n in range(1, 9)
    ]
    replies = list(grid.send_and_receive(asked))
    assert [reply.has_error() for reply in replies] == [False, False, True, False]
    assert [int(r.content["metrics"]["num-examples"]) for r in replies if r.has_content()] == [6, 9, 15]


class Custom(FedAvg):
    """It might look at single replies."""


@pytest.mark.parametrize("strategy", [FedMedian(), Custom(), FedAvg(train_metrics_aggr_fn=lambda records, by: MetricRecord())])
def test_other_strategies_see_single_replies(strategy: Strategy) -> None:
    with pytest.raises(ValueError, match="replies can be merged for FedAvg"):
        flower_private.make_merge_config(strategy)
