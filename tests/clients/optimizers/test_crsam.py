"""CR-SAM: finite differences of the gradient on both sides."""

import torch
from torch.testing import assert_close

from clients.optimizers.crsam import CRSAM
from clients.optimizers.sam import SAM
from tests.support.objectives import at_origin, random_batches
from tests.support.recording import NO_DRAW, RHO, START, Watched, batchnorm_network, hill, statistics_after, step, vector


def test_both_sides_enter_the_step() -> None:
    watched = Watched(hill())
    w, _, _ = step(CRSAM(lr=0.1, rho=RHO, gamma=0.7, beta=0.5), START, at_origin(), watched)
    assert_close(torch.stack(watched.points), torch.stack([START, vector(1.8, 4.4), vector(1.2, 3.6)]))
    # The gradients (3.6, 4.4) and (2.4, 3.6); on a quadratic the second difference vanishes.
    assert_close(w, START - 0.1 * (vector(3.6, 4.4) + 0.5 * vector(1.2, 0.8)))


def test_without_regularization_it_is_sam() -> None:
    got, _, _ = step(CRSAM(rho=RHO, gamma=0.0, beta=0.0), START, at_origin())
    want, _, _ = step(SAM(rho=RHO), START, at_origin())
    assert_close(got, want)


def test_statistics_follow_the_first_pass() -> None:
    objective, optimizer, batch = batchnorm_network(), CRSAM(), random_batches(1, classes=2)[0]
    w = objective.network.initial
    optimizer.step(w, {}, objective, batch, NO_DRAW)
    assert_close(objective.network.buffers, statistics_after((w, batch)))
