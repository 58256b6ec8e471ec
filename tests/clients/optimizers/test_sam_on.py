"""SAM-ON: membership, scales, what the first pass skips."""

from typing import Literal

import pytest
import torch
from torch.testing import assert_close

from clients.optimizers.sam import SAM
from clients.optimizers.sam_on import SAMON
from fedsam.config import ConfigError
from tests.support.objectives import at_origin, layout_of
from tests.support.recording import RHO, START, Watched, hill, step, vector

MIXED = layout_of(("norm.weight", (1,)), ("fc.weight", (1,)))
BIASES = layout_of(("norm.weight", (1,)), ("norm.bias", (1,)))


@pytest.mark.parametrize(("perturb", "e"), [("only_norm", (0.5, 0.0)), ("no_norm", (0.0, 0.5)), ("all", (0.3, 0.4))])
def test_members_are_perturbed_and_all_are_trained(perturb: Literal["only_norm", "no_norm", "all"], e: tuple[float, float]) -> None:
    watched = Watched(hill(MIXED))
    w, _, _ = step(SAMON(lr=0.1, rho=RHO, perturb=perturb), START, at_origin(), watched)
    assert_close(watched.points[1], START + vector(*e))
    assert_close(w, START - 0.1 * vector(2.0, 1.0) * (START + vector(*e)))


def test_the_first_pass_skips_the_others() -> None:
    watched = Watched(hill(MIXED))
    step(SAMON(), START, at_origin(), watched)
    assert watched.masks == [[True, False], None]


@pytest.mark.parametrize(
    ("settings", "e"),
    [
        # t = (1.5 + 0.1, 1): of t g = (4.8, 4) the norm, of t t g the direction.
        ({"eta": 0.1}, RHO * vector(1.6 * 4.8, 4.0) / vector(4.8, 4.0).norm()),
        # t = (1.6, 4.1)
        ({"eta": 0.1, "normalize_bias": True}, RHO * vector(1.6 * 4.8, 4.1 * 16.4) / vector(4.8, 16.4).norm()),
        # t = 1.5 times 1.1, and 1
        ({"eta": 0.1, "scaling": "layerwise"}, RHO * vector(1.65 * 4.95, 4.0) / vector(4.95, 4.0).norm()),
        ({"eta": 0.1, "p": "inf"}, RHO * vector(1.6, 1.0)),
    ],
)
def test_the_adaptive_scale(settings: dict[str, object], e: torch.Tensor) -> None:
    watched = Watched(hill(BIASES))
    step(SAMON(rho=RHO, variant="asam", **settings), START, at_origin(), watched)  # type: ignore[arg-type]
    assert_close(watched.points[1], START + e)


def test_a_network_of_normalization_parameters_only_has_sam() -> None:
    got, _, _ = step(SAMON(rho=RHO), START, at_origin(), hill(BIASES))
    want, _, _ = step(SAM(rho=RHO), START, at_origin())
    assert_close(got, want)


def test_no_member_is_an_error() -> None:
    with pytest.raises(ConfigError, match="perturb: 'only_norm' is not allowed"):
        step(SAMON(), START, at_origin())
