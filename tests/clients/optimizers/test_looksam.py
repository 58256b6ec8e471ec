"""LookSAM: the reused part, its cycle, zero gradients."""

import torch
from torch.testing import assert_close

from clients.optimizers.base import Task
from clients.optimizers.looksam import LookSAM
from tests.support.objectives import at_origin, layout_of
from tests.support.recording import RHO, START, Watched, hill, step, vector


def test_the_orthogonal_part_is_reused_at_the_length_of_the_gradient() -> None:
    optimizer = LookSAM(lr=0.1, rho=RHO, k=2, alpha=0.5)
    w, state, _ = step(optimizer, START, at_origin())
    assert_close(w, vector(1.5 - 0.36, 4 - 0.44))
    # (3.6, 4.4) less 28.4 / 25 of (3, 4): along (0.8, -0.6), kept as it is.
    assert_close(state["g_v"], vector(0.192, -0.144))
    g = vector(2 * 1.14, 3.56)
    w2, state, _ = step(optimizer, w, at_origin(), state=state)
    assert_close(w2, w - 0.1 * (g + 0.5 * g.norm() * vector(0.8, -0.6)))
    assert_close(state["g_v"], vector(0.192, -0.144))


def test_only_every_kth_step_has_a_second_pass() -> None:
    watched, optimizer = Watched(hill()), LookSAM(k=3)
    state, w = optimizer.init(START, Task()), START
    counts = []
    for _ in range(7):
        w, state, _ = step(optimizer, w, at_origin(), watched, state)
        counts.append(watched.backward)
    assert counts == [2, 3, 4, 6, 7, 8, 10]


def test_projection_per_tensor_ignores_a_tensor_without_gradient() -> None:
    # Each tensor of one scalar is parallel to its own gradient, so nothing is orthogonal to it.
    optimizer = LookSAM(rho=RHO, granularity="tensor")
    _, state, _ = step(optimizer, vector(1.5, 0.0), at_origin())
    assert_close(state["g_v"], vector(0.0, 0.0))
    joint = hill(layout_of(("fc.weight", (2,))))
    _, state, _ = step(optimizer, START, at_origin(), joint)
    assert_close(state["g_v"], vector(0.192, -0.144))


def test_at_a_stationary_point_it_stays() -> None:
    for granularity in ("global", "tensor"):
        optimizer = LookSAM(granularity=granularity, k=2)
        w, state, _ = step(optimizer, vector(0.0, 0.0), at_origin())
        w, state, _ = step(optimizer, w, at_origin(), state=state)
        assert torch.equal(w, vector(0.0, 0.0))


def test_new_weights_begin_a_new_cycle() -> None:
    optimizer = LookSAM(momentum=0.9)
    _, state, _ = step(optimizer, START, at_origin())
    state = optimizer.resume(state, START, Task())
    assert optimizer.plan(state, None).kind == "sam"  # type: ignore[arg-type]
    assert set(state) == {"looksam_step", "v"}


def test_few_steps_make_it_sam() -> None:
    assert "SAM" in (LookSAM(k=1).reduction_reason(10) or "")
    assert "SAM" in (LookSAM().reduction_reason(1) or "")
    assert LookSAM().reduction_reason(2) is None
