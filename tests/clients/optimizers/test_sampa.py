"""SAMPa: the previous batch, the look-ahead point, running statistics."""

from typing import Literal

import torch
from torch.testing import assert_close

from clients.objective import Batch
from clients.optimizers.base import Task
from clients.optimizers.sampa import SAMPa
from tests.support.objectives import at_origin, random_batches
from tests.support.recording import NO_DRAW, RHO, START, Watched, batchnorm_network, hill, statistics_after, step, vector


def test_it_perturbs_on_the_previous_batch_and_looks_ahead_on_the_current() -> None:
    optimizer = SAMPa(lr=0.1, rho=RHO, lam=0.2)
    w, state, _ = step(optimizer, START, at_origin())
    assert_close(w, vector(1.2, 3.6))  # a base step
    current = Batch(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.long))
    w, state, losses = step(optimizer, w, current, state=state)
    # a: (1.2, 3.6) + (0.3, 0.4), around 0: (3, 4). Ahead: (1.2, 3.6) - 0.1 (3, 4) = (0.9, 3.2), around 1: (-0.2, 2.2).
    assert_close(state["h"], vector(-0.2, 2.2))
    assert_close(w, vector(1.2 - 0.1 * (0.8 * 3 - 0.2 * 0.2), 3.6 - 0.1 * (0.8 * 4 + 0.2 * 2.2)))
    assert_close(losses, vector(0.1**2 + 2.2**2 / 2))


def test_momentum_and_decay_enter_the_look_ahead_point_together_or_not_at_all() -> None:
    cases: list[tuple[float, Literal["sgd", "adamw"], float]] = [(0.9, "sgd", 0.9 * 1.7 + 0.5), (0.0, "sgd", 0.0), (0.9, "adamw", 0.0)]
    for momentum, base, ahead in cases:
        optimizer = SAMPa(lr=0.1, momentum=momentum, weight_decay=0.5, base=base)
        watched = Watched(hill())
        state = {"h": vector(3.0, 4.0), "x": at_origin().x, "y": at_origin().y} | (
            {"v": vector(1.7, 0.0)} if momentum and base == "sgd" else {}
        )
        step(optimizer, vector(1.0, 0.0), at_origin(), watched, state)
        assert_close(watched.points[0], vector(1.0 - 0.1 * (3.0 + ahead), -0.4))


def test_statistics_follow_the_current_batch_only() -> None:
    objective, optimizer = batchnorm_network(), SAMPa(lr=0.1)
    first, second = random_batches(2, classes=2)
    w = objective.network.initial
    w1, state, _ = optimizer.step(w, optimizer.init(w, Task()), objective, first, NO_DRAW)
    optimizer.step(w1, state, objective, second, NO_DRAW)
    assert_close(objective.network.buffers, statistics_after((w, first), (w1 - 0.1 * state["h"], second)))


def test_new_weights_drop_the_gradient_and_its_batch() -> None:
    optimizer = SAMPa(momentum=0.9)
    _, state, _ = step(optimizer, START, at_origin())
    assert set(optimizer.resume(state, START, Task())) == {"v"}
    assert optimizer.reduction_reason(1)
    assert optimizer.reduction_reason(2) is None


def test_lambda_one_ignores_the_radius() -> None:
    ends = []
    for rho in (0.1, 5.0):
        optimizer = SAMPa(lr=0.1, rho=rho, lam=1.0)
        w, state, _ = step(optimizer, START, at_origin())
        ends.append(step(optimizer, w, at_origin(), state=state)[0])
    assert torch.equal(*ends)
