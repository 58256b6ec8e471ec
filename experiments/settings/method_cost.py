"""What a method costs by its nature: vectors down, up and kept, evaluations per step. Measured on one client of a toy problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from clients.local import local_train
from clients.objective import Batch, NetworkObjective, Objective
from clients.optimizers.base import Task
from experiments.settings.method import Method
from fedsam.models.network import Network

STEPS, BATCH, FEATURES, CLASSES = 20, 8, 3, 2


@dataclass(frozen=True)
class MethodCost:
    """Costs of one active client in one round, and of the server; vectors are counted in model sizes.

    Attributes:
        down: Vectors that a client receives.
        up: Vectors that it sends.
        client_state: Vectors that it keeps.
        server_state: Vectors that the server keeps besides the global one.
        gradient_evaluations_per_step: For each example.
        forward_evaluations_per_step: For each example, besides those of the gradients.
    """

    down: int
    up: int
    client_state: int
    server_state: int
    gradient_evaluations_per_step: float
    forward_evaluations_per_step: float


def cost(method: Method, rounds: int) -> MethodCost:
    """The cost of a method in a run of so many rounds; its parts must fit together."""
    objective, w, batches = toy(STEPS)
    state = method.rule.init_state(w)
    down = method.rule.broadcast(w, state)
    task = toy_task(rounds, batches)
    rng = np.random.default_rng(0)
    result = local_train(
        down["w"],
        method.optimizer,
        method.correction,
        objective,
        batches,
        rng,
        task=task,
        server_payload=down,
        cohort=1,
        correction_rng=lambda: rng,
    )
    size = objective.layout.size
    return MethodCost(
        down=_vectors(down.values(), size),
        up=1 + len(result.payload.mean) + len(result.payload.population),
        client_state=_vectors(result.client_state.values(), size),
        server_state=_vectors(_flat(state), size),
        gradient_evaluations_per_step=result.gradient_evaluations / result.examples,
        forward_evaluations_per_step=result.forward_evaluations / result.examples,
    )


def toy(steps: int) -> tuple[Objective, Tensor, list[Batch]]:
    """A normalization and a linear layer, their weights (P,), and a batch of random examples for each step; always the same."""
    rng = np.random.default_rng(0)
    # Not initialized, which would draw from the global generator: whoever computes gives the weights.
    network = Network(nn.Sequential(nn.LayerNorm(FEATURES), skip_init(nn.Linear, FEATURES, CLASSES)), dtype=torch.float64)
    w = torch.from_numpy(rng.standard_normal(network.layout.size))
    labels = torch.arange(BATCH) % CLASSES
    return NetworkObjective(network), w, [Batch(torch.from_numpy(rng.random((BATCH, FEATURES))), labels) for _ in range(steps)]


def toy_task(rounds: int, batches: Sequence[Batch]) -> Task:
    """What is known of rounds of `STEPS` local steps on the examples of `batches`."""
    x, y = torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])
    counts = tuple(torch.bincount(y, minlength=CLASSES).tolist())
    return Task(rounds=rounds, steps=STEPS, class_counts=counts, peek=lambda count: Batch(x[:count], y[:count]))


def _vectors(values: Iterable[Any], size: int) -> int:
    return sum(isinstance(value, Tensor) and value.numel() == size for value in values)


def _flat(state: Mapping[str, Any]) -> list[Any]:
    return [leaf for value in state.values() for leaf in (_flat(value) if isinstance(value, Mapping) else [value])]
