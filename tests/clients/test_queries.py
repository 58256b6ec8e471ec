"""What clients answer when asked about a global vector: on small data, through the grid, as the server asks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor

from clients import runtime
from experiments.running.grids import grids
from experiments.running.run import cohort_strategy
from experiments.settings.method import Method
from experiments.settings.presets import expand
from fedsam.config import Experiment
from fedsam.grid.inline import InlineGrid
from fedsam.messages import codec
from fedsam.overrides import override
from strategies.cohort import CohortStrategy

SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "data": {"dataset": "digits", "clients": 4, "examples": 200},
    "model": "lenet5",
    "client": {"batch_size": 20},
    "server": {"participation": 4},
    "compute": {"grid": "inline"},
}


def settings(**changes: Any) -> Experiment:
    return expand(override(SETTINGS, {key.replace("__", "."): value for key, value in changes.items()}))


def begun(experiment: Experiment) -> tuple[InlineGrid, CohortStrategy]:
    """A grid in this process, and the strategy at the start of a run."""
    with grids([experiment]) as grid_of:
        grid, dataset = grid_of(experiment)
    network = runtime.network(experiment, dataset, torch.device("cpu"), torch.float32)
    strategy = cohort_strategy(experiment, Method.of(experiment))
    strategy.begin(network.initial.clone(), network.buffers)
    assert isinstance(grid, InlineGrid)
    return grid, strategy


def ask(grid: InlineGrid, name: str, vectors: Mapping[str, Tensor], node: int = 1, **asked: int | str) -> RecordDict:
    """The answer to `query.NAME`."""
    content = codec.encode_query(codec.arrays(vectors), 1, asked)
    (reply,) = grid.send_and_receive([Message(content, dst_node_id=node, message_type=f"query.{name}")])
    assert not reply.has_error(), reply.error.reason
    return reply.content


def play(grid: InlineGrid, strategy: CohortStrategy, round: int) -> Tensor:
    """One round; the vector after it."""
    replies = grid.send_and_receive(strategy.configure_train(round, codec.arrays({}), ConfigRecord(), grid))
    strategy.aggregate_train(round, replies)
    return strategy.evaluated


@pytest.mark.parametrize("model", ["lenet5", "tests.support.networks:normed"])
def test_asking_for_the_speed_changes_no_client(model: Any) -> None:
    experiment = settings(method="fedgamma", client__optimizer_state="keep", model=model, client__steps=1)
    (asked, strategy), (left, other) = begun(experiment), begun(experiment)
    for round in (1, 2):
        assert strategy.w is not None
        vectors = {**strategy.rule.broadcast(strategy.w, strategy.state), "buffers": strategy.buffers}
        (seconds,) = ask(asked, "speed", vectors, node=2, steps=3)["metrics"].values()
        assert isinstance(seconds, float) and 0 < seconds < math.inf
        assert torch.equal(play(asked, strategy, round), play(left, other, round))
