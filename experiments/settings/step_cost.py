"""Evaluations that a local optimizer makes in a step: as its class declares, and as `Counted` sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from clients.objective import Batch, Counted, Objective
from clients.optimizers.base import LocalOptimizer, Task
from clients.optimizers.cost import CostVariables, EvaluationsPerStep, StepCost
from experiments.settings.method_cost import STEPS, toy, toy_task

ROUNDS = 5  # counted, of STEPS local steps each, one after another with the state kept
LONGEST_START = 1000  # steps
# The authors' settings of a method whose defaults make it another one.
PUBLISHED: dict[str, dict[str, Any]] = {"esam": {"beta": 0.6, "gamma": 0.5}}


def declared(method: type[LocalOptimizer]) -> StepCost:
    """The cost that a class declares itself; one that it inherits says nothing of its own steps.

    Raises:
        ValueError: It declares none.
    """
    cost: StepCost | None = vars(method).get("cost")
    if cost is None:
        raise ValueError(f"{method.__name__} has no `cost` of its own, such as StepCost(backward=2)")
    return cost


def measured(
    optimizer: LocalOptimizer, objective: Objective, w: Tensor, batches: Sequence[Batch], task: Task
) -> tuple[EvaluationsPerStep, CostVariables]:
    """The evaluations counted in the steps on `batches` (all of one size) that follow the optimizer's start, and what they depend on."""
    start, rng = warmup_steps(optimizer), np.random.default_rng(0)
    size, state, steps = batches[0].size, optimizer.init(w, task), []
    for batch in batches:
        counted = Counted(objective)
        w, state, _ = optimizer.step(w, state, counted, batch, rng)
        steps.append((counted.forward, counted.backward))
    forward, backward = (np.array(column) for column in zip(*steps[start:], strict=True))
    variables = CostVariables(B=size, S=task.steps, p=float((backward > size).mean()))
    return EvaluationsPerStep(float(forward.mean()) / size, float(backward.mean()) / size), variables


def warmup_steps(optimizer: LocalOptimizer) -> int:
    """Steps after which a method that starts afresh has become itself: the first step, or a warm-up."""
    return next((steps for steps in range(1, LONGEST_START) if optimizer.reduction_reason(steps) is None), 1)


def on_toy(name: str, method: type[LocalOptimizer]) -> tuple[LocalOptimizer, EvaluationsPerStep, CostVariables]:
    """A method with its defaults, or as `PUBLISHED`, and what it costs on the toy problem of `experiments.settings.method_cost`."""
    optimizer = method(**PUBLISHED.get(name, {}))
    objective, w, batches = toy(warmup_steps(optimizer) + ROUNDS * STEPS)
    return optimizer, *measured(optimizer, objective, w, batches, toy_task(ROUNDS, batches))
