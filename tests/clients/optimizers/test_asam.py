"""ASAM on quadratics worked out by hand: L = (a1 w1^2 + a2 w2^2) / 2, w1 in `fc.weight`, w2 in `fc.bias`."""

import numpy as np
import torch
from torch import Tensor

from clients.optimizers.asam import ASAM
from tests.support.objectives import Quadratic, at_origin

W = torch.tensor([3.0, 2.0], dtype=torch.float64)


def one_step(optimizer: ASAM, objective: Quadratic, w: Tensor = W) -> Tensor:
    w, _, _ = optimizer.step(w, {}, objective, at_origin(), np.random.default_rng(0))
    return w


def test_official_scales_only_tensors_called_weight() -> None:
    # g = (3, 5), T = (|3| + 1, 1) = (4, 1), T g = (12, 5) of norm 13, e = 0.13 T^2 g / 13 = (0.48, 0.05).
    w = one_step(ASAM(lr=0.1, rho=0.13, eta=1.0), Quadratic([1.0, 2.5]))
    assert torch.allclose(w, W - 0.1 * torch.tensor([3.48, 2.5 * 2.05], dtype=torch.float64), rtol=1e-12)


def test_elementwise_scales_every_tensor_and_ignores_eta() -> None:
    # g = (4, 8), T = |w| = (3, 2), T g = (12, 16) of norm 20, e = 0.5 T^2 g / 20 = (0.9, 0.8).
    w = one_step(ASAM(lr=0.1, rho=0.5, variant="elementwise", eta=9.0), Quadratic([4 / 3, 4.0]))
    assert torch.allclose(w, W - 0.1 * torch.tensor([4 / 3 * 3.9, 4 * 2.8], dtype=torch.float64), rtol=1e-12)


def test_a_zero_gradient_moves_nothing() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    for variant in ("official", "elementwise"):
        assert torch.equal(one_step(ASAM(variant=variant), Quadratic([1.0, 1.0]), zero), zero)
