"""Passes that a local optimizer makes in a step: what its docstring says, and what `Counted` sees.

The docstring's line is `Cost: forward F backward B per example and step`, F and B formulas of its hyperparameters and of the letters
    B: examples of a batch
    S: local steps of a round
    p: share of the steps that pass backward twice, as counted: for methods where it depends on the training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import Tensor

from clients.objective import Batch, Counted, Objective
from clients.optimizers.base import LocalOptimizer, Task
from experiments.settings.method_cost import STEPS, toy, toy_task

ROUNDS = 5  # counted, of STEPS local steps each, one after another with the state kept
LONGEST_START = 1000  # steps
# The authors' settings of a method whose defaults make it another one.
PUBLISHED: dict[str, dict[str, Any]] = {"esam": {"beta": 0.6, "gamma": 0.5}}


@dataclass(frozen=True)
class Passes:
    """Passes per example and local step.

    Attributes:
        forward: Forward only.
        backward: Forward and backward.
    """

    forward: float
    backward: float


def formulas(method: type[LocalOptimizer]) -> tuple[str, str]:
    """What the docstring says of the forward and of the backward passes.

    Raises:
        ValueError: It says nothing.
    """
    text = " ".join((method.__doc__ or "").split())
    found = re.search(r"Cost: forward (.+?) backward (.+?) per example and step", text)
    if not found:
        raise ValueError(f"the docstring of {method.__name__} has no line 'Cost: forward F backward B per example and step'")
    return found[1], found[2]


def documented(optimizer: LocalOptimizer, letters: Mapping[str, float]) -> Passes:
    """The value of the docstring's formulas for this optimizer's hyperparameters."""
    values = {field.name: getattr(optimizer, field.name) for field in fields(optimizer)} | dict(letters)
    # Sums and products of names, from the docstring of a class that is imported: who wrote it could have run anything already.
    return Passes(*(float(eval(formula, {"__builtins__": {}}, values)) for formula in formulas(type(optimizer))))


def measured(
    optimizer: LocalOptimizer, objective: Objective, w: Tensor, batches: Sequence[Batch], task: Task
) -> tuple[Passes, dict[str, float]]:
    """The passes counted in the steps on `batches` (all of one size) that follow the optimizer's start, and the letters' values."""
    start, rng = settled(optimizer), np.random.default_rng(0)
    size, state, steps = batches[0].size, optimizer.init(w, task), []
    for batch in batches:
        counted = Counted(objective)
        w, state, _ = optimizer.step(w, state, counted, batch, rng)
        steps.append((counted.forward, counted.backward))
    forward, backward = (np.array(column) for column in zip(*steps[start:], strict=True))
    letters = {"B": size, "S": task.steps, "p": float((backward > size).mean())}
    return Passes(float(forward.mean()) / size, float(backward.mean()) / size), letters


def settled(optimizer: LocalOptimizer) -> int:
    """Steps after which a method that starts afresh has become itself: the first step, or a warm-up."""
    return next((steps for steps in range(1, LONGEST_START) if optimizer.degenerate(steps) is None), 1)


def on_toy(name: str, method: type[LocalOptimizer]) -> tuple[LocalOptimizer, Passes, dict[str, float]]:
    """A method with its defaults, or as `PUBLISHED`, and what it costs on the toy problem of `experiments.settings.method_cost`."""
    optimizer = method(**PUBLISHED.get(name, {}))
    objective, w, batches = toy(settled(optimizer) + ROUNDS * STEPS)
    return optimizer, *measured(optimizer, objective, w, batches, toy_task(ROUNDS, batches))
