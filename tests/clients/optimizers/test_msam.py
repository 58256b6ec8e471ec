"""Momentum-SAM on the quadratic L = (w1^2 + 2 w2^2) / 2, and what keeps its weights from drifting."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from clients.optimizers import build
from clients.optimizers.base import State, Task
from clients.optimizers.msam import MSAM
from fedsam.config import Component, ConfigError
from tests.support.objectives import Quadratic, at_origin

W = torch.tensor([3.0, 2.0], dtype=torch.float64)
OBJECTIVE = Quadratic([1.0, 2.0])


def run(optimizer: MSAM, steps: int, w: Tensor = W) -> tuple[Tensor, State]:
    state, rng = optimizer.init(w, Task()), np.random.default_rng(0)
    for _ in range(steps):
        w, state, _ = optimizer.step(w, state, OBJECTIVE, at_origin(), rng)
    return w, state


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_two_steps_by_hand() -> None:
    optimizer = MSAM(lr=0.1, momentum=0.9, rho=0.5)
    w, state = run(optimizer, 1)
    assert torch.allclose(w, vector(2.7, 1.6))  # v = g = (3, 4)
    assert torch.allclose(optimizer.displaced(w, state), vector(2.4, 1.2))  # c = 0.5 / 5
    w, state = run(optimizer, 2)
    assert torch.allclose(state["v"], vector(5.1, 6.0))  # 0.9 (3, 4) + (2.4, 2 * 1.2)
    assert torch.allclose(w, vector(2.19, 1.0))


def test_weight_decay_acts_on_the_displaced_weights() -> None:
    _, state = run(MSAM(lr=0.1, momentum=0.9, rho=0.5, weight_decay=1.0), 2)
    # v = (6, 6) of norm 6 sqrt(2), w = (2.4, 1.4), s = w - 0.5 v / |v|; q = g(s) + s.
    s = vector(2.4, 1.4) - 0.5 * vector(1.0, 1.0) / 2**0.5
    assert torch.allclose(state["v"], 0.9 * vector(6.0, 6.0) + vector(2.0, 3.0) * s)


def test_adamw_decays_after_the_adam_step() -> None:
    w, state = run(MSAM(base="adamw", lr=0.1, rho=0.5, weight_decay=0.2, eps=1e-12), 1)
    assert torch.allclose(w, (W - 0.1) * (1 - 0.1 * 0.2))  # the first Adam step is lr in every coordinate
    assert torch.allclose(state["c"] * state["m"], vector(0.3, 0.4))


def test_a_changing_radius_does_not_make_the_weights_drift() -> None:
    w, state, rng = W, MSAM().init(W, Task()), np.random.default_rng(0)
    for rho in (0.5, 3.0, 0.1):
        optimizer = MSAM(lr=0.1, momentum=0.9, rho=rho)
        before = w, state
        w, state, _ = optimizer.step(w, state, OBJECTIVE, at_origin(), rng)
        assert torch.equal(w, before[0] - 0.1 * state["v"])  # nothing but the update
        assert torch.linalg.vector_norm(optimizer.displaced(w, state) - w) == pytest.approx(rho)


def test_without_momentum_the_displacement_follows_the_previous_gradient() -> None:
    w, state = run(MSAM(lr=0.1, momentum=0.0, rho=1.0), 1)
    assert torch.allclose(MSAM().displaced(w, state), w - vector(0.6, 0.8))


def test_nag_displaced_is_the_iterate_of_torch_nesterov() -> None:
    parameter = torch.nn.Parameter(W.clone())
    reference = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, nesterov=True)
    for steps in range(1, 6):
        parameter.grad = vector(1.0, 2.0) * parameter.detach()
        reference.step()
        optimizer = MSAM(lr=0.1, momentum=0.9, form="nag")
        assert torch.allclose(optimizer.displaced(*run(optimizer, steps)), parameter.detach(), rtol=1e-12)


def test_new_weights_start_undisplaced_and_keep_their_momentum() -> None:
    optimizer = MSAM(lr=0.1, momentum=0.9, rho=0.5)
    _, state = run(optimizer, 3)
    new = vector(1.0, 1.0)
    resumed = optimizer.resume(state, new, Task())
    assert torch.equal(optimizer.displaced(new, resumed), new)
    assert torch.equal(resumed["v"], state["v"])


def test_zero_gradients_stay_finite() -> None:
    w, _ = run(MSAM(), 3, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(w, torch.zeros(2, dtype=torch.float64))


def test_one_local_step_is_the_base() -> None:
    assert "adamw" in (replace(MSAM(), base="adamw").reduction_reason(1) or "")
    assert MSAM().reduction_reason(2) is None


@pytest.mark.parametrize("setting", [{"nesterov": True}, {"dampening": 0.1}, {"form": "nag", "base": "adamw"}])
def test_what_it_cannot_do_is_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(setting)))):
        build(Component(name="msam", **setting))
