"""m-sharpness SAM: pieces, decay in the loss, projection, running statistics."""

import torch
from torch.testing import assert_close

from clients.objective import Batch
from clients.optimizers.m_sharpness_sam import MSharpnessSAM
from clients.optimizers.sam import SAM
from tests.support.objectives import at_origin, random_batches
from tests.support.recording import NO_DRAW, RHO, START, Watched, batchnorm_network, hill, statistics_after, step, vector


def batch(*examples: torch.Tensor) -> Batch:
    return Batch(torch.stack(examples), torch.zeros(len(examples), dtype=torch.long))


PAIR = batch(vector(0.0, 0.0), vector(1.5, 0.0))


def test_each_piece_has_its_own_perturbation() -> None:
    # Gradients (3, 4) and (0, 4), so (3.6, 4.4) and (0, 4.5) at the perturbed points.
    w, _, losses = step(MSharpnessSAM(lr=0.1, rho=RHO, m=1), START, PAIR)
    assert_close(w, START - 0.1 * vector(1.8, 4.45))
    assert_close(losses, vector(10.25, 8.0))


def test_a_smaller_last_piece_weighs_by_its_size() -> None:
    watched = Watched(hill())
    w, _, _ = step(MSharpnessSAM(lr=0.1, rho=RHO, m=2), START, batch(PAIR.x[0], PAIR.x[0], PAIR.x[1]), watched)
    assert watched.sizes == [2, 2, 1, 1]
    assert_close(w, START - 0.1 * (2 * vector(3.6, 4.4) + vector(0.0, 4.5)) / 3)


def test_one_piece_is_sam() -> None:
    for decay in (0.0, 0.5):
        got, _, _ = step(MSharpnessSAM(rho=RHO, m=2, weight_decay=decay), START, PAIR)
        want, _, _ = step(SAM(rho=RHO, weight_decay=decay), START, PAIR)
        assert torch.equal(got, want)


def test_decay_in_the_loss_enters_both_passes_and_not_the_base_step() -> None:
    # The loss gains (w, w) / 2 * 0.5: curvatures 2.5 and 1.5, gradient (3.75, 6).
    w, _, losses = step(MSharpnessSAM(lr=0.1, rho=RHO, weight_decay=0.5, decay_in_loss=True), START, at_origin())
    e = RHO * vector(3.75, 6.0) / vector(3.75, 6.0).norm()
    assert_close(w, START - 0.1 * vector(2.5, 1.5) * (START + e))
    assert_close(losses, vector(10.25))


def test_ascent_steps_stay_in_the_ball() -> None:
    watched = Watched(hill())
    step(MSharpnessSAM(rho=RHO, n_iters=3, step_size_mult=0.6), START, at_origin(), watched)
    lengths = [float((point - START).norm()) for point in watched.points]
    assert_close(vector(*lengths), vector(0.0, 0.3, 0.5, 0.5))


def test_statistics_follow_the_clean_pass_of_every_piece() -> None:
    objective, data = batchnorm_network(), random_batches(1, classes=2)[0]
    w = objective.network.initial
    MSharpnessSAM(m=4).step(w, {}, objective, data, NO_DRAW)
    pieces = Batch(data.x[:4], data.y[:4]), Batch(data.x[4:], data.y[4:])
    assert_close(objective.network.buffers, statistics_after(*((w, piece) for piece in pieces)))
