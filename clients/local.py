"""Local training: the local steps of one client in one round.

Legend: `w: (P,)` received global vector, `x: (P,)` local iterate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clients.corrections.base import Corrected, Correction, LocalOutcome, Payload, Vectors
from clients.objective import Batch, Counted, Objective
from clients.optimizers.base import LocalOptimizer, State, Task
from fedsam.config import Clip
from fedsam.schedules import CONSTANT_RATE, LocalRate


@dataclass(frozen=True)
class LocalResult:
    """One client's round.

    Attributes:
        x: The vector after the last local step (P,).
        state: The local optimizer's final state.
        client_state: The correction's vectors to keep on the client.
        delta: What goes up (P,): after - before, unless the correction sends something in its place.
        payload: What the correction sends besides the delta.
        loss: Mean loss over all examples passed, each at its step's first pass.
        examples: Examples passed, repetitions counted.
        gradient_evaluations: Examples forward and backward.
        forward_evaluations: Examples forward only.
    """

    x: Tensor
    state: State
    client_state: Vectors
    delta: Tensor
    payload: Payload
    loss: float
    steps: int
    examples: int
    gradient_evaluations: int
    forward_evaluations: int


def local_train(
    w: Tensor,
    optimizer: LocalOptimizer,
    correction: Correction,
    objective: Objective,
    batches: Iterable[Batch],
    rng: np.random.Generator,
    *,
    task: Task | None = None,
    lr_factor: float = 1.0,
    rate: LocalRate = CONSTANT_RATE,
    server_payload: Vectors | None = None,
    client_state: Vectors | None = None,
    state: State | None = None,
    clip: Clip = "fl-simulator",
    statistics_batches: Iterable[Batch] = (),
    cohort: int | None = None,
    correction_rng: Callable[[], np.random.Generator] | None = None,
) -> LocalResult:
    """One local step of `optimizer` per batch, from the received vector `w`, which is left as it was.

    Args:
        task: What the optimizer may know about the round; the correction's terms are added to it.
        lr_factor: What the schedule multiplies the learning rate by in this round.
        rate: The learning rate over the steps of the round, whose number `task` must tell where it is not constant.
        server_payload: The server's vectors besides w that the correction needs.
        client_state: The correction's vectors kept on this client; empty when it takes part for the first time.
        state: The optimizer's state to go on from; default: a fresh one.
        clip: What the optimizer's clip sees.
        statistics_batches: Passed forward after the last step, for running statistics at its weights.
        cohort: Clients that were asked in this round, where the server says so.
        correction_rng: Makes the generator of what the correction draws after the last step.

    Raises:
        ValueError: The rate is not constant, and the task does not tell how many batches there are.
    """
    server_payload, client_state = server_payload or {}, client_state or correction.initial(w)
    optimizer = optimizer if lr_factor == 1 else replace(optimizer, lr=optimizer.lr * lr_factor)
    counted = Counted(objective)
    terms = correction.start(w, server_payload, client_state)
    corrected = Corrected(counted, correction, terms, clip)
    task = replace(task or Task(), terms=terms) if terms or task is None else task
    x, state = w, optimizer.init(w, task) if state is None else optimizer.resume(state, w, task)
    total, examples, steps = None, 0, 0
    for batch in batches:
        at_step = optimizer if rate.floor == 1 else replace(optimizer, lr=optimizer.lr * rate.factor(steps, max(task.steps, 1)))
        x, state, losses = at_step.step(x, state, corrected, batch, rng)
        sum_of_losses = losses.sum(dtype=torch.float64)
        total = sum_of_losses if total is None else total + sum_of_losses
        examples, steps = examples + batch.size, steps + 1
    for batch in statistics_batches:
        counted.begin()
        counted.losses(x, batch)
    if rate.floor != 1 and steps != task.steps:
        raise ValueError(f"a rate that falls within a round needs the number of local steps: the task has {task.steps}, there were {steps}")
    outcome = LocalOutcome(w, x, state, steps, optimizer, rate, objective.layout, cohort, correction_rng)
    client_state, payload = correction.finish(outcome, server_payload, client_state)
    return LocalResult(
        x=x,
        state=state,
        client_state=client_state,
        delta=outcome.delta if payload.delta is None else payload.delta,
        payload=payload,
        loss=0.0 if total is None else float(total) / max(examples, 1),
        steps=steps,
        examples=examples,
        gradient_evaluations=counted.backward,
        forward_evaluations=counted.forward,
    )
