"""Sparse SAM: the mask, when and from what it is refreshed."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from clients.objective import Batch
from clients.optimizers.base import Task
from clients.optimizers.sparse_sam import DynamicSparseSAM, SparseSAM
from fedsam.config import ConfigError
from tests.support.objectives import Softmax, at_origin, random_batches
from tests.support.recording import NO_DRAW, RHO, START, Watched, batchnorm_network, hill, statistics_after, step, vector

TASK = Task(steps=4, peek=at_origin)


def test_the_first_step_is_plain_and_the_next_perturbs_the_largest_scores() -> None:
    optimizer = SparseSAM(lr=0.1, rho=RHO, sparsity=0.5)
    w, state, _ = step(optimizer, START, at_origin(), task=TASK)
    assert_close(w, vector(1.2, 3.6))
    assert_close(state["mask"], vector(0.0, 1.0))  # squares of (2.4, 3.6)
    watched = Watched(hill())
    step(optimizer, w, at_origin(), watched, state)
    g = vector(2.4, 3.6)
    assert_close(watched.points[1] - w, vector(0.0, RHO * 3.6) / g.norm(), rtol=1e-6, atol=0.0)


def test_examples_are_scored_one_by_one() -> None:
    # Opposite gradients of the first scalar cancel in their sum, not in the sum of their squares.
    pair = Batch(torch.stack([vector(-4.0, 3.0), vector(5.0, 3.0)]), torch.zeros(2, dtype=torch.long))
    optimizer, watched = SparseSAM(lr=0.1, num_samples=2), Watched(hill())
    _, state, _ = step(optimizer, vector(0.5, 4.0), pair, watched, task=Task(peek=lambda n: pair))
    assert watched.sizes == [2, 2, 1, 1]
    assert_close(state["mask"], vector(1.0, 0.0))


@pytest.mark.parametrize(("leftover", "mask"), [(False, (1.0, 0.0)), (True, (0.0, 1.0))])
def test_the_released_code_adds_the_descent_gradient_to_the_first_score(leftover: bool, mask: tuple[float, float]) -> None:
    # After the step to (1.2, 3.6) the only example has the gradient (-6, 5), the descent gradient is (3, 4).
    example = Batch(vector(4.2, -1.4).reshape(1, 2), torch.zeros(1, dtype=torch.long))
    optimizer = SparseSAM(lr=0.1, num_samples=1, leftover=leftover)
    _, state, _ = step(optimizer, START, at_origin(), task=Task(peek=lambda n: example))
    assert_close(state["mask"], vector(*mask))


@pytest.mark.parametrize(
    ("settings", "steps", "refreshed"),
    [({}, 4, [0, 4]), ({"steps_per_epoch": 2}, 4, [0, 2, 4]), ({"update_freq": 2, "steps_per_epoch": 2}, 4, [0, 4]), ({}, 0, [0])],
)
def test_it_refreshes_after_the_first_step_of_an_epoch(settings: dict[str, int], steps: int, refreshed: list[int]) -> None:
    optimizer = SparseSAM(**settings)  # type: ignore[arg-type]
    state, kinds = optimizer.init(START, Task(steps=steps, peek=at_origin)), []
    for count in range(6):
        kinds.append(optimizer.plan({**state, "sparse_step": count}, NO_DRAW).kind)
    assert [count for count, kind in enumerate(kinds) if kind == "refresh"] == refreshed


def test_scores_leave_the_statistics_alone() -> None:
    objective, optimizer, batch = batchnorm_network(), SparseSAM(num_samples=4), random_batches(1, classes=2)[0]
    w = objective.network.initial
    state = optimizer.init(w, Task(peek=lambda n: Batch(batch.x[:n], batch.y[:n])))
    _, state, _ = optimizer.step(w, state, objective, batch, NO_DRAW)
    assert state["mask"].sum() == w.numel() // 2
    assert_close(objective.network.buffers, statistics_after((w, batch)))


def test_it_needs_examples() -> None:
    with pytest.raises(ConfigError, match="needs the client's examples"):
        SparseSAM().init(START, Task())
    assert "base optimizer" in (SparseSAM().reduction_reason(1) or "")
    assert SparseSAM().reduction_reason(2) is None


def test_the_dynamic_mask_drops_small_gradients_and_grows_others() -> None:
    optimizer = DynamicSparseSAM(sparsity=0.5, drop_rate=0.5, lr=0.1)
    state = optimizer.init(torch.zeros(8, dtype=torch.float64), Task(round=1, rounds=4, steps=2))
    assert state["dropped"] == 0.5
    mask, g = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]), torch.tensor([4.0, -3, 2, 1, 9, 9, 9, 9])
    draws = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.1, 0.4, 0.3, 0.2])
    assert optimizer._exchanged(mask, g, draws, 0.5).tolist() == [1, 1, 0, 0, 0, 1, 1, 0]
    assert optimizer._exchanged(mask, g, draws, 0.0).tolist() == mask.tolist()
    later = optimizer.resume({**state, "mask": mask}, torch.zeros(8), Task(round=3, rounds=4, steps=2))
    assert later["dropped"] == pytest.approx(0.25)
    assert torch.equal(later["mask"], mask)


def test_the_dynamic_mask_starts_at_random_and_serves_from_the_next_step_on() -> None:
    optimizer, objective, rng = DynamicSparseSAM(lr=0.1), Softmax(), np.random.default_rng(0)
    w = torch.ones(objective.layout.size, dtype=torch.float64)
    state, watched = optimizer.init(w, Task(rounds=2, steps=3)), Watched(objective)
    masks = []
    for batch in random_batches(3):
        before, (w, state, _) = w, optimizer.step(w, state, watched, batch, rng)
        masks.append(state["mask"])
        moved = watched.points[-1] - before
        active = len(w) - math.ceil(len(w) / 2)
        assert int((moved != 0).sum()) <= active
        assert int(state["mask"].sum()) <= active + 1
    assert torch.equal(masks[0], masks[1])  # a refresh in every round of three steps
    assert optimizer.uses_rounds and not DynamicSparseSAM(drop_rate=0.0).uses_rounds
