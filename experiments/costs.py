"""What a method costs by its nature: vectors down, up and kept, passes per step. Measured on one client of a toy problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import strategies
from clients import corrections, optimizers
from clients.local import local_train
from clients.objective import Batch, NetworkObjective
from clients.optimizers.base import Task
from fedsam.config import Experiment
from fedsam.network import Network

STEPS, BATCH, CLASSES = 20, 4, 2


@dataclass(frozen=True)
class Cost:
    """Costs of one active client in one round, and of the server; vectors are counted in model sizes.

    Attributes:
        down: Vectors that a client receives.
        up: Vectors that it sends.
        client_state: Vectors that it keeps.
        server_state: Vectors that the server keeps besides the global one.
        gradients: Gradient evaluations per example and step.
        forwards: Forward evaluations per example and step, besides those of the gradients.
    """

    down: int
    up: int
    client_state: int
    server_state: int
    gradients: float
    forwards: float


def cost(experiment: Experiment) -> Cost:
    """The cost of the experiment's method, whose parts must fit together. Raises `ConfigError` where a part cannot be built."""
    optimizer = optimizers.build(experiment.client.optimizer)
    correction = corrections.build(experiment.client.correction)
    rule = strategies.build(experiment.server.strategy)
    rng = np.random.default_rng(0)
    batches = [Batch(torch.from_numpy(rng.random((BATCH, 3))), torch.arange(BATCH) % CLASSES) for _ in range(STEPS)]
    network = Network(nn.Linear(3, CLASSES), dtype=torch.float64)
    state = rule.init_state(network.initial)
    down = rule.broadcast(network.initial, state)
    task = Task(
        rounds=experiment.rounds,
        steps=STEPS,
        class_counts=(BATCH, BATCH),
        peek=lambda count: Batch(batches[0].x[:count], batches[0].y[:count]),
    )
    result = local_train(down["w"], optimizer, correction, NetworkObjective(network), batches, rng, task=task, received=down)
    size = network.layout.size
    return Cost(
        down=_vectors(down.values(), size),
        up=1 + len(result.sent.mean) + len(result.sent.population),
        client_state=_vectors(result.kept.values(), size),
        server_state=_vectors(_flat(state), size),
        gradients=result.gradient_evaluations / result.examples,
        forwards=result.forward_evaluations / result.examples,
    )


def _vectors(values: Iterable[Any], size: int) -> int:
    return sum(isinstance(value, Tensor) and value.numel() == size for value in values)


def _flat(state: Mapping[str, Any]) -> list[Any]:
    return [leaf for value in state.values() for leaf in (_flat(value) if isinstance(value, Mapping) else [value])]
