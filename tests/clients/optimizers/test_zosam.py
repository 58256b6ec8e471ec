"""ZO-SAM: the probed direction, its randomness, running statistics."""

import numpy as np
import torch
from torch.testing import assert_close

from clients.corrections.base import Corrected
from clients.corrections.none import NoCorrection
from clients.optimizers.zosam import ZOSAM
from tests.support.objectives import at_origin, random_batches
from tests.support.recording import RHO, START, Watched, batchnorm_network, hill, statistics_after, vector


def perturbation(optimizer: ZOSAM, seed: int = 0, w: torch.Tensor = START) -> torch.Tensor:
    watched = Watched(hill())
    optimizer.step(w, {}, watched, at_origin(), np.random.default_rng(seed))
    assert (watched.forward, watched.backward) == (2 * optimizer.num_probes, 1)
    return watched.points[0] - w


def test_one_probe_climbs_along_a_random_line() -> None:
    for seed in range(5):
        e = perturbation(ZOSAM(rho=RHO), seed)
        assert_close(e.norm(), vector(RHO)[0])
        assert e @ vector(3.0, 4.0) > 0


def test_the_step_takes_the_gradient_there() -> None:
    e = perturbation(ZOSAM(lr=0.1, rho=RHO))
    w, _, losses = ZOSAM(lr=0.1, rho=RHO).step(START, {}, hill(), at_origin(), np.random.default_rng(0))
    assert_close(w, START - 0.1 * vector(2.0, 1.0) * (START + e))
    assert_close(losses, hill().losses(START + e, at_origin()))


def test_many_probes_find_the_gradient() -> None:
    e = perturbation(ZOSAM(rho=RHO, num_probes=3000))
    assert_close(e, vector(0.3, 0.4), rtol=0.1, atol=0.0)


def test_each_step_has_its_own_probes() -> None:
    optimizer, rng = ZOSAM(), np.random.default_rng(0)
    assert optimizer.plan({}, rng) != optimizer.plan({}, rng)


def test_at_a_stationary_point_it_stays() -> None:
    assert_close(perturbation(ZOSAM(), w=vector(0.0, 0.0)), vector(0.0, 0.0))


def test_statistics_follow_the_descent_pass_only() -> None:
    objective, batch = batchnorm_network(), random_batches(1, classes=2)[0]
    watched = Watched(objective)
    w = objective.network.initial
    ZOSAM().step(w, {}, Corrected(watched, NoCorrection(), {}), batch, np.random.default_rng(0))
    assert_close(objective.network.buffers, statistics_after((watched.points[0], batch)))
