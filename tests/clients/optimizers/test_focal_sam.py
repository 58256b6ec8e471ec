"""Focal-SAM: class weights, one pass for two gradients."""

import pytest
import torch
from torch.testing import assert_close

from clients.objective import Batch
from clients.optimizers.base import Task
from clients.optimizers.focal_sam import FocalSAM
from clients.optimizers.sam import SAM
from fedsam.config import ConfigError
from tests.support.recording import RHO, START, Watched, hill, step, vector

COUNTS = Task(class_counts=(3, 1))
BATCH = Batch(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]))


def test_rare_classes_weigh_more_in_the_sharpness() -> None:
    # c = 0.5 (1 - 3/4) and 0.5 (1 - 1/4), 1/4 on the mean, so that g_a = 3/4 g and g_b = 1/4 (3.6, 4.4).
    w, state, losses = step(FocalSAM(lr=0.1, rho=RHO, lam=0.5, focal_gamma=1.0), START, BATCH, task=COUNTS)
    assert_close(state["class_weights"], vector(0.125, 0.375))
    assert_close(w, START - 0.1 * (0.75 * vector(3.0, 4.0) + 0.25 * vector(3.6, 4.4)))
    assert_close(losses, vector(1.5**2 + 8.0, 1.5**2 + 8.0))


def test_the_batch_size_divides_not_the_sum_of_weights() -> None:
    # Only the frequent class: c = 1/8 for both examples.
    frequent = Batch(BATCH.x, torch.tensor([0, 0]))
    w, _, _ = step(FocalSAM(lr=0.1, rho=RHO, lam=0.5, focal_gamma=1.0), START, frequent, task=COUNTS)
    assert_close(w, START - 0.1 * (0.875 * vector(3.0, 4.0) + 0.125 * vector(3.6, 4.4)))


def test_given_counts_take_precedence_and_an_absent_class_has_the_full_weight() -> None:
    state = FocalSAM(lam=0.6, class_counts=(5, 0)).init(START, COUNTS)
    assert_close(state["class_weights"], vector(0.0, 0.6))


def test_two_gradients_come_from_one_pass() -> None:
    watched = Watched(hill())
    step(FocalSAM(), START, BATCH, watched, task=COUNTS)
    assert len(watched.points) == 2
    assert watched.backward == 3 * BATCH.size


def test_it_reduces_to_sam() -> None:
    got, _, _ = step(FocalSAM(rho=RHO, lam=1.0, focal_gamma=0.0), START, BATCH, task=COUNTS)
    want, _, _ = step(SAM(rho=RHO), START, BATCH)
    assert_close(got, want)


def test_counts_must_be_known() -> None:
    with pytest.raises(ConfigError, match="class_counts: "):
        FocalSAM().init(START, Task())
    with pytest.raises(ConfigError, match="class_counts: "):
        FocalSAM(class_counts=(0, 0)).init(START, COUNTS)
