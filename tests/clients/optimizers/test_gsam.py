"""GSAM: the decomposition, the radius that follows the learning rate, the adaptive forms."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch.testing import assert_close

from clients.optimizers.gsam import GSAM
from clients.optimizers.sam import SAM
from fedsam.config import ConfigError
from tests.support.objectives import at_origin
from tests.support.recording import RHO, START, Watched, hill, step, vector


def test_the_clean_gradient_loses_its_part_along_the_perturbed_one() -> None:
    w, _, _ = step(GSAM(lr=0.1, rho_max=RHO, alpha=0.5), START, at_origin())
    g_p = vector(3.6, 4.4)
    orthogonal = vector(3.0, 4.0) - 28.4 / 32.32 * g_p
    assert_close(orthogonal @ g_p, torch.zeros((), dtype=torch.float64))
    assert_close(w, START - 0.1 * (g_p - 0.5 * orthogonal))


def test_minimizing_the_clean_loss_projects_the_other_way() -> None:
    w, _, _ = step(GSAM(lr=0.1, rho_max=RHO, alpha=0.5, minimize_fp=False), START, at_origin())
    assert_close(w, START - 0.1 * (vector(3.0, 4.0) + 0.5 * vector(0.192, -0.144)))


def test_without_alpha_it_is_sam() -> None:
    got, _, _ = step(GSAM(rho_max=RHO, alpha=0.0), START, at_origin())
    want, _, _ = step(SAM(rho=RHO), START, at_origin())
    assert_close(got, want)


@pytest.mark.parametrize(
    ("form", "e"),
    [("asam", RHO * vector(2.25 * 3, 16.0 * 4) / vector(4.5, 16.0).norm()), ("bigvision", RHO * vector(1.5 * 3, 4.0 * 4) / 5)],
)
def test_adaptive_forms(form: Literal["asam", "bigvision"], e: torch.Tensor) -> None:
    watched = Watched(hill())
    step(GSAM(rho_max=RHO, adaptive=True, adaptive_form=form), START, at_origin(), watched)
    assert_close(watched.points[1], START + e)


def test_the_radius_follows_the_learning_rate() -> None:
    optimizer = GSAM(lr=0.2, rho_max=0.3, rho_min=0.05, lr_max=0.2, lr_min=0.02)
    assert [replace(optimizer, lr=lr).rho for lr in (0.2, 0.1, 0.02)] == pytest.approx([0.3, 0.05 + 0.25 * 8 / 18, 0.05])
    assert replace(optimizer, lr_max=0.02).rho == 0.3
    assert GSAM(lr=0.7, rho_max=0.3).rho == 0.3


def test_a_range_of_radii_needs_a_range_of_learning_rates() -> None:
    with pytest.raises(ConfigError, match="lr_max: must be given"):
        GSAM(rho_max=0.3, rho_min=0.1)


def test_at_a_stationary_point_it_stays() -> None:
    w, _, _ = step(GSAM(adaptive=True), vector(0.0, 0.0), at_origin())
    assert torch.equal(w, vector(0.0, 0.0))
