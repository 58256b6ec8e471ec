"""Flower's own simulation runtime: a ClientApp and a ServerApp as Flower's documentation writes them.

Flower draws the cohort itself, at random, so its clients are others than those of fedsam, unless all take part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.benchmarks.ways import plain
from experiments.benchmarks.ways.task import Clock, Task, Vector

_images: Mapping[
    str, tuple[Tensor, Tensor]
] = {}  # of an actor's process, by file: it serves many clients, each with a ClientApp of its own


def client_app(task: Task) -> ClientApp:
    """Clients that train the task's network."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays: Any = message.content["arrays"]
        if not task.trains:
            return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
        settings: Any = message.content["config"]
        model, state = plain.network(task), arrays.to_torch_state_dict()
        model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=task.lr)
        x, y = load_data(task)
        order = torch.from_numpy(task.order(int(context.node_config["partition-id"]), int(settings["server-round"])))
        for index in order.split(task.batch_size):
            optimizer.zero_grad()
            cross_entropy(model(x.index_select(0, index)), y[index]).backward()
            optimizer.step()
        content: dict[str, Any] = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(order)})}
        return Message(RecordDict(content), reply_to=message)

    return app


def load_data(task: Task) -> tuple[Tensor, Tensor]:
    """The normalized images, read once by each process."""
    global _images
    if task.images not in _images:
        _images = {task.images: plain.normalized(task)}
    return _images[task.images]


def train_on(grid: Grid, task: Task, mark: Callable[[int], None]) -> Vector:
    """All rounds on a grid; the final weights (P,).

    Args:
        mark: Told of each round once it is over.
    """
    share, rounds = task.cohort / task.clients, len(task.rounds_to_run())
    strategy = FedAvg(fraction_train=share, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=task.clients)

    def after(round: int, arrays: ArrayRecord) -> None:
        if round:  # Flower also evaluates before the first
            mark(round)

    model = plain.network(task)
    result = strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=rounds, evaluate_fn=after)
    model.load_state_dict(result.arrays.to_torch_state_dict())
    return plain.vector(model)


def main(task: Task) -> None:
    """Run the task."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    clock, server = Clock(task), ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        task.keep(train_on(grid, task, clock.mark))

    resources: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0}, "init_args": {"num_cpus": task.actors}}
    run_simulation(server, client_app(task), task.clients, backend_config=resources)
