"""F-SAM on the quadratic L = (w1^2 + 2 w2^2) / 2."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from clients.optimizers.base import State
from clients.optimizers.fsam import FSAM
from tests.support.objectives import Quadratic, at_origin

W = torch.tensor([3.0, 2.0], dtype=torch.float64)
A = torch.tensor([1.0, 2.0], dtype=torch.float64)


def one_step(optimizer: FSAM, w: Tensor, state: State) -> tuple[Tensor, State]:
    w, state, _ = optimizer.step(w, state, Quadratic([1.0, 2.0]), at_origin(), np.random.default_rng(0))
    return w, state


@pytest.mark.parametrize("sigma", [1.0, 0.5])
def test_two_steps_by_hand(sigma: float) -> None:
    optimizer = FSAM(lr=0.1, rho=0.5, sigma=sigma, beta=0.75)
    w, state = one_step(optimizer, W, {})
    assert torch.allclose(w, W - 0.1 * A * torch.tensor([3.3, 2.4], dtype=torch.float64))  # e = 0.5 (3, 4) / 5
    assert torch.equal(state["ema"], A * W)
    g = A * w  # (2.67, 3.04)
    d = g - sigma * A * W  # the average from before this gradient
    want = w - 0.1 * A * (w + 0.5 * d / math.hypot(*d.tolist()))
    w, state = one_step(optimizer, w, state)
    assert torch.allclose(w, want, rtol=1e-12)
    assert torch.allclose(state["ema"], 0.75 * A * W + 0.25 * g)


def test_adaptive_scales_the_perturbation_by_the_weights() -> None:
    # w g = (9, 8), e = 0.1 w^2 g / |w g|.
    w, _ = one_step(FSAM(lr=0.1, rho=0.1, adaptive=True), W, {})
    e = 0.1 * W * torch.tensor([9.0, 8.0], dtype=torch.float64) / math.hypot(9, 8)
    assert torch.allclose(w, W - 0.1 * A * (W + e), rtol=1e-12)


def test_a_gradient_that_the_average_explains_is_not_perturbed() -> None:
    w, _ = one_step(FSAM(lr=0.1, rho=0.5), W, {"ema": A * W})
    assert torch.allclose(w, W - 0.1 * A * W)


def test_one_local_step_is_sam() -> None:
    assert "SAM" in (FSAM().reduction_reason(1) or "")
    assert FSAM().reduction_reason(2) is None
