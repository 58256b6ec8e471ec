"""vSAM: its three kinds of step by hand, its schedule, and its guards."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clients.objective import Counted
from clients.optimizers import build
from clients.optimizers.base import State, Step, StepPlan, Task
from clients.optimizers.vsam import VSAM
from fedsam.config import Component, ConfigError
from tests.support.objectives import Quadratic, Softmax, at_origin, random_batches

W = torch.tensor([3.0, 2.0], dtype=torch.float64)
A = torch.tensor([1.0, 2.0], dtype=torch.float64)
SMALL: dict[str, Any] = {"window": 5, "blocks": 2, "warmup_steps": 6, "last_tensors": 1}


def advance(optimizer: VSAM, kind: Any, w: Tensor = W, state: State | None = None) -> tuple[Tensor, State]:
    step = Step(Quadratic([1.0, 2.0]), at_origin(), StepPlan(kind))
    w, state, _ = optimizer.advance(w, state or optimizer.init(w, Task()), step)
    return w, state


def plans(optimizer: VSAM, steps: int) -> tuple[list[str], list[State], Counted]:
    """The kind of each step on a noisy task, the state before it, and the cost of all."""
    objective, rng, taken, states = Counted(Softmax()), np.random.default_rng(0), [], []
    w = torch.ones(objective.layout.size, dtype=torch.float64)
    state = optimizer.init(w, Task())
    for batch in random_batches(steps):
        state = optimizer.adapted(state)
        plan = optimizer.plan(state, rng)
        taken.append(plan.kind)
        states.append(state)
        w, state, _ = optimizer.advance(w, state, Step(objective, batch, plan))
    return taken, states, objective


def test_the_three_kinds_of_step_by_hand() -> None:
    optimizer = VSAM(lr=0.1, rho=0.5, beta=0.5, **SMALL)
    w1, state = advance(optimizer, "sam")
    h = A * torch.tensor([0.3, 0.4], dtype=torch.float64)  # e = 0.5 (3, 4) / 5
    assert torch.allclose(w1, W - 0.1 * (A * W + h))
    assert torch.allclose(state["h"], h)
    assert state["norms"].tolist() == pytest.approx([0, 0, 0, 0, 0.8])  # of the last tensor
    assert state["ratios"].tolist() == pytest.approx([0, 0, 0, 0, 0.2])
    w2, state = advance(optimizer, "reuse", w1, state)
    assert torch.allclose(w2, w1 - 0.1 * (A * w1 + 0.5 * h))
    w3, state = advance(optimizer, "reuse", w2, state)
    assert torch.allclose(w3, w2 - 0.1 * (A * w2 + 0.25 * h))
    w4, _ = advance(optimizer, "plain", w3, state)
    assert torch.allclose(w4, w3 - 0.1 * A * w3)


def test_block_variance_by_hand() -> None:
    optimizer = VSAM(**SMALL)
    # Sorted 1 2 3 7 9: blocks (1, 2) and (3, 7) of variances 0.25 and 4; the 9 fills no block.
    assert float(optimizer._block_variance(torch.tensor([9.0, 3.0, 1.0, 7.0, 2.0]))) == pytest.approx(2.125)


def test_the_warm_up_is_sampled_and_the_first_window_after_it_is_not() -> None:
    taken, _, _ = plans(VSAM(**SMALL), 6 + 4)
    assert taken == ["sam"] * 6 + ["reuse"] * 4


def test_six_reuses_and_then_the_gradient_alone() -> None:
    taken, _, _ = plans(VSAM(window=9, blocks=2, warmup_steps=9), 9 + 8)
    assert taken[9:] == ["reuse"] * 6 + ["plain"] * 2


def test_every_later_window_samples_its_quota_and_costs_no_more() -> None:
    optimizer = VSAM(alpha_ratio=0.9, alpha_var=0.9, **SMALL)
    taken, states, counted = plans(optimizer, 10 + 5 * 20)
    quotas = []
    for begin in range(10, len(taken), 5):
        assert taken[begin : begin + 5].count("sam") == math.floor(states[begin]["rate"])
        quotas.append(math.floor(states[begin]["rate"]))
    assert max(quotas) <= 4
    assert len(set(quotas)) > 1
    assert counted.forward == 0
    assert counted.backward == 8 * (len(taken) + taken.count("sam"))


def test_a_kept_perturbation_is_not_reused_at_new_weights() -> None:
    optimizer = VSAM(**SMALL)
    _, states, _ = plans(optimizer, 8)
    assert optimizer.plan(states[-1], np.random.default_rng(0)).kind == "reuse"
    resumed = optimizer.resume(states[-1], W, Task())
    assert optimizer.plan(resumed, np.random.default_rng(0)).kind == "plain"
    assert torch.equal(resumed["norms"], states[-1]["norms"])


def test_zero_gradients_leave_the_schedule_finite() -> None:
    optimizer, zero = VSAM(**SMALL), torch.zeros(2, dtype=torch.float64)
    w, state, rng = zero, optimizer.init(zero, Task()), np.random.default_rng(0)
    for _ in range(20):
        w, state, _ = optimizer.step(w, state, Quadratic([1.0, 2.0]), at_origin(), rng)
    assert torch.equal(w, zero)
    assert state["rate"] == 1.0


def test_clients_cannot_be_sampled_together() -> None:
    optimizer = VSAM(**SMALL)
    state = {**optimizer.init(torch.zeros(3, 2), Task()), "warmup_left": 0, "step_after": 5}
    with pytest.raises(ValueError, match="clients"):
        optimizer.adapted(state)


@pytest.mark.parametrize("settings", [{"window": 10, "blocks": 2, "warmup_steps": 9}, {"window": 4, "blocks": 5}, {"max_p": 0.0}])
def test_settings_that_cannot_fill_the_statistics_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        build(Component(name="vsam", **settings))


def test_settings_that_make_it_sam_say_so() -> None:
    optimizer = VSAM(window=10, blocks=2, warmup_steps=20)
    assert "it is SAM" in (optimizer.reduction_reason(20) or "")
    assert "can be sampled" in (optimizer.reduction_reason(29) or "")
    assert optimizer.reduction_reason(30) is None
    assert optimizer.reduction_reason(0) is None
