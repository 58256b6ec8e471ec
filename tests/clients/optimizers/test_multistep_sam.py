"""Multi-step SAM on the quadratic L = (w1^2 + 2 w2^2) / 2."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clients.optimizers import build
from clients.optimizers.multistep_sam import MultistepSAM
from clients.optimizers.sam import SAM
from fedsam.config import Component, ConfigError
from tests.support.objectives import Quadratic, at_origin

W = torch.tensor([3.0, 2.0], dtype=torch.float64)
A = torch.tensor([1.0, 2.0], dtype=torch.float64)
G1 = A * torch.tensor([3.15, 2.2], dtype=torch.float64)  # after an ascent of 0.25 along (3, 4) / 5
G2 = A * (G1 / A + 0.25 * G1 / math.hypot(3.15, 4.4))


def one_step(optimizer: SAM) -> Tensor:
    w, _, _ = optimizer.step(W, {}, Quadratic([1.0, 2.0]), at_origin(), np.random.default_rng(0))
    return w


@pytest.mark.parametrize(
    ("settings", "q"),
    [
        ({"variant": "last", "rho": 0.5}, G2),
        ({"variant": "average", "rho": 0.5}, (G1 + G2) / 2),
        ({"variant": "explicit", "ascent_radii": (0.25, 0.25), "descent_weights": (2.0, -1.0, 0.5)}, 2 * A * W - G1 + G2 / 2),
    ],
)
def test_one_step_by_hand(settings: dict[str, Any], q: Tensor) -> None:
    assert torch.allclose(one_step(MultistepSAM(lr=0.1, ascent_steps=2, **settings)), W - 0.1 * q, rtol=1e-12)


def test_a_single_ascent_is_sam() -> None:
    for variant in ("last", "average"):
        assert torch.equal(one_step(MultistepSAM(variant=variant, ascent_steps=1, rho=0.3)), one_step(SAM(rho=0.3)))


@pytest.mark.parametrize(
    "settings",
    [
        {"variant": "explicit"},
        {"variant": "explicit", "ascent_radii": [0.1, 0.1], "descent_weights": [0.5, 0.5]},
        {"variant": "last", "ascent_radii": [0.1]},
        {"ascent_steps": 0},
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        build(Component(name="multistep_sam", **settings))
