"""K-SAM: the hardest examples, ties, shares."""

import torch
from torch.testing import assert_close

from clients.objective import Batch
from clients.optimizers.ksam import KSAM
from clients.optimizers.sam import SAM
from tests.support.objectives import random_batches
from tests.support.recording import NO_DRAW, RHO, START, Watched, batchnorm_network, hill, statistics_after, step, vector


def batch(*examples: torch.Tensor) -> Batch:
    return Batch(torch.stack(examples), torch.zeros(len(examples), dtype=torch.long))


def test_both_passes_see_the_hardest_examples() -> None:
    # Losses 8, 10.25 and 0; two thirds of three are two for the perturbation, one for the descent.
    pair, watched = batch(vector(1.5, 0.0), vector(0.0, 0.0), START), Watched(hill())
    w, _, losses = step(KSAM(lr=0.1, rho=RHO, ascent_share=0.7, descent_share=0.5), START, pair, watched)
    assert_close(losses, vector(8.0, 10.25, 0.0))
    assert watched.sizes == [2, 1]
    e = RHO * vector(1.5, 4.0) / vector(1.5, 4.0).norm()  # mean of (3, 4) and (0, 4)
    assert_close(w, START - 0.1 * vector(2.0, 1.0) * (START + e))


def test_ties_go_to_the_lower_index() -> None:
    # The same loss from both sides: the first example decides.
    w, _, _ = step(KSAM(lr=0.1, rho=0.0), START, batch(vector(0.0, 4.0), vector(3.0, 4.0)))
    assert_close(w, vector(1.5 - 0.3, 4.0))


def test_at_least_one_example_is_used() -> None:
    watched = Watched(hill())
    step(KSAM(ascent_share=0.01, descent_share=0.01), START, batch(vector(0.0, 0.0), START), watched)
    assert (watched.sizes, watched.forward) == ([1, 1], 2)


def test_all_examples_make_it_sam() -> None:
    pair = batch(vector(0.0, 0.0), vector(1.5, 0.0))
    got, _, _ = step(KSAM(rho=RHO, ascent_share=1.0, descent_share=1.0), START, pair)
    want, _, _ = step(SAM(rho=RHO), START, pair)
    assert_close(got, want)


def test_clients_may_share_a_batch() -> None:
    pair = batch(vector(0.0, 0.0), vector(1.5, 0.0))
    together, _, _ = step(KSAM(), torch.stack([START, -START]), pair)
    assert_close(together[1], step(KSAM(), -START, pair)[0])


def test_statistics_follow_the_full_forward_pass() -> None:
    objective, data = batchnorm_network(), random_batches(1, classes=2)[0]
    w = objective.network.initial
    KSAM().step(w, {}, objective, data, NO_DRAW)
    assert_close(objective.network.buffers, statistics_after((w, data)))
