"""WSAM: coupled and decoupled, clipping of both gradients."""

import torch
from torch.testing import assert_close

from clients.optimizers.sam import SAM
from clients.optimizers.wsam import WSAM
from tests.support.objectives import at_origin
from tests.support.recording import RHO, START, step, vector


def test_coupled_it_extrapolates_beyond_sam() -> None:
    # gamma / (1 - gamma) = 3 times the change (0.6, 0.4)
    w, _, _ = step(WSAM(lr=0.1, rho=RHO, gamma=0.75, decouple=False), START, at_origin())
    assert_close(w, START - 0.1 * vector(4.8, 5.2))


def test_decoupled_the_change_bypasses_momentum() -> None:
    optimizer = WSAM(lr=0.1, rho=RHO, gamma=0.75, momentum=0.9, weight_decay=0.5)
    w, state, losses = step(optimizer, START, at_origin())
    assert_close(state["v"], vector(3.75, 6.0))
    assert_close(w, START - 0.1 * vector(3.75, 6.0) - 0.3 * vector(0.6, 0.4))
    assert_close(losses, vector(1.5**2 + 8.0))


def test_the_change_is_taken_at_the_weights_before_the_base_step() -> None:
    for base in ("sgd", "adamw"):
        optimizer = WSAM(lr=0.1, rho=RHO, gamma=0.75, base=base)
        plain, _ = optimizer.descend(START, {}, vector(3.0, 4.0))
        w, _, _ = step(optimizer, START, at_origin())
        assert_close(w, plain - 0.3 * vector(0.6, 0.4))


def test_half_coupled_is_sam() -> None:
    got, _, _ = step(WSAM(rho=RHO, gamma=0.5, decouple=False), START, at_origin())
    want, _, _ = step(SAM(rho=RHO), START, at_origin())
    assert_close(got, want)


def test_max_norm_clips_each_gradient_after_the_perturbation() -> None:
    w, _, _ = step(WSAM(lr=0.1, rho=RHO, gamma=0.75, decouple=False, max_norm=1.0), START, at_origin())
    g, g_s = vector(3.0, 4.0) / 5, vector(3.6, 4.4) / vector(3.6, 4.4).norm()
    assert_close(w, START - 0.1 * (g + 3 * (g_s - g)), rtol=1e-6, atol=0.0)
    assert torch.equal(step(WSAM(max_norm=1e3), START, at_origin())[0], step(WSAM(), START, at_origin())[0])
