"""GCSAM: centring per output, the two norms."""

import torch
from torch.testing import assert_close

from clients.optimizers.gcsam import GCSAM
from clients.optimizers.sam import SAM
from clients.optimizers.tensors import tensorwise
from tests.support.objectives import Quadratic, at_origin, layout_of
from tests.support.recording import RHO, START, Watched, hill, step, vector

ROW = layout_of(("fc.weight", (1, 2)))


def test_the_perturbation_is_centred_and_divided_by_the_uncentred_norm() -> None:
    # C(g) = (3, 4) - 3.5, e = 0.5 C(g) / 5 = (-0.05, 0.05).
    w, _, _ = step(GCSAM(lr=0.1, rho=RHO), START, at_origin(), hill(ROW))
    assert_close(w, START - 0.1 * vector(2.9, 4.05))


def test_the_switches_give_the_form_of_the_paper() -> None:
    optimizer, watched = GCSAM(lr=0.1, rho=RHO, norm_after=True, center_descent=True), Watched(hill(ROW))
    w, _, _ = step(optimizer, START, at_origin(), watched)
    e = RHO * vector(-1.0, 1.0) / 2**0.5
    assert_close(watched.points[1], START + e)
    g2 = vector(2.0, 1.0) * (START + e)
    assert_close(w, START - 0.1 * (g2 - g2.mean()))


def test_the_mean_is_over_all_axes_but_the_first() -> None:
    layout, watched = layout_of(("conv.weight", (2, 1, 2)), ("conv.bias", (2,))), Watched(Quadratic([1.0] * 6))
    watched.layout = layout
    w = vector(1.0, 3.0, 5.0, 9.0, 2.0, 4.0)
    step(GCSAM(rho=1.0), w, at_origin(features=6), watched)
    assert_close(watched.points[1], w + vector(-1.0, 1.0, -2.0, 2.0, 2.0, 4.0) / w.norm())


def test_vectors_are_not_centred() -> None:
    got, _, _ = step(GCSAM(rho=RHO), START, at_origin())
    want, _, _ = step(SAM(rho=RHO), START, at_origin())
    assert torch.equal(got, want)


def test_a_rule_may_give_one_number_per_tensor() -> None:
    layout = layout_of(("a", (2,)), ("b", (1,)))
    got = tensorwise(lambda segment, v: v.sum(dim=-1, keepdim=True) * segment.size, layout, torch.tensor([[1, 2, 3], [4, 5, 6]]))
    assert got.tolist() == [[6, 6, 3], [18, 18, 6]]
