"""ESAM: its perturbation and its selection by hand, its guards, and that what it saves is saved."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clients.objective import Batch, Counted, NetworkObjective
from clients.optimizers.base import Step, StepPlan
from clients.optimizers.esam import ESAM, examples, most_sensitive
from clients.optimizers.sam import SAM
from fedsam.models.network import Network
from tests.support.objectives import Quadratic, Softmax, at_origin, random_batches

W = torch.tensor([3.0, 2.0], dtype=torch.float64)


def step(optimizer: SAM, rng: object = None, state: dict[str, Any] | None = None) -> Tensor:
    generator = cast(np.random.Generator, rng or np.random.default_rng(0))
    w, _, _ = optimizer.step(W, state or {}, Quadratic([1.0, 2.0]), at_origin(4), generator)
    return w


class Draws:
    """Gives the listed uniform draws, one list per call."""

    def __init__(self, *lists: Sequence[float]) -> None:
        self.lists = list(lists)

    def random(self, size: int) -> np.ndarray[Any, Any]:
        return np.array(self.lists.pop(0)).reshape(size)


def test_the_first_step_perturbs_all_tensors_by_rho_over_beta() -> None:
    assert torch.allclose(step(ESAM(lr=0.1, rho=0.3, beta=0.5)), step(SAM(lr=0.1, rho=0.6)), rtol=1e-7)


def test_a_drawn_tensor_gets_the_whole_length() -> None:
    w = step(ESAM(lr=0.1, rho=0.3, beta=0.5), Draws([0.5, 0.6]), {"tensors": 2})  # U <= beta selects
    assert torch.allclose(w, W - 0.1 * torch.tensor([3.6, 4.0], dtype=torch.float64), rtol=1e-7)


def test_an_empty_mask_is_drawn_again() -> None:
    draws = Draws([0.9, 0.9], [0.9, 0.8], [0.9, 0.1])
    w = step(ESAM(lr=0.1, rho=0.3, beta=0.5), draws, {"tensors": 2})
    assert not draws.lists
    assert torch.allclose(w, W - 0.1 * torch.tensor([3.0, 5.2], dtype=torch.float64), rtol=1e-7)


def test_with_all_tensors_and_examples_it_is_sam() -> None:
    assert torch.equal(step(ESAM(rho=0.3, norm_eps=1e-12)), step(SAM(rho=0.3)))


@pytest.mark.parametrize(
    ("rise", "gamma", "want"),
    [
        ([0.1, 0.5, 0.3, 0.4], 0.75, {1: 0.5, 3: 0.5}),  # strictly above the third largest
        ([0.1, 0.5, 0.3, 0.4], 0.25, {1: 1.0}),  # k = 1: none is above it
        ([0.1, 0.5, 0.3, 0.4], 0.1, {1: 1.0}),  # k = 0
        ([0.2, 0.5, 0.2, 0.2], 0.75, {1: 1.0}),  # ties with the threshold are not above it
        ([-0.3, -0.1, -0.2, -0.4], 0.75, {1: 0.5, 2: 0.5}),  # a fall can be the largest rise
    ],
)
def test_selected_examples_by_hand(rise: list[float], gamma: float, want: dict[int, float]) -> None:
    kept, weights = most_sensitive(torch.tensor(rise), gamma)
    assert {int(i): float(weight) for i, weight in zip(kept, weights, strict=True) if weight} == pytest.approx(want)


def test_all_tied_keeps_one() -> None:
    _, weights = most_sensitive(torch.zeros(6), 0.9)
    assert weights.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert torch.allclose(step(ESAM(gamma=0.5)), step(SAM(norm_eps=1e-7)))  # a batch of equal examples


def test_examples_are_taken_for_each_client() -> None:
    batch = Batch(torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[0, 1, 2], [3, 4, 5]]))
    taken = examples(batch, torch.tensor([[2, 0], [1, 1]]))
    assert taken.y.tolist() == [[2, 0], [4, 4]]
    assert taken.x.tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_the_last_pass_sees_only_the_selected_examples() -> None:
    counted, optimizer, rng = Counted(Softmax()), ESAM(beta=0.5, gamma=0.5), np.random.default_rng(0)
    w = torch.ones(counted.layout.size, dtype=torch.float64)
    optimizer.step(w, {}, counted, random_batches(1, 10)[0], rng)
    assert (counted.forward, counted.backward) == (10, 10 + 4)


def test_the_first_backward_pass_skips_tensors_that_are_not_drawn() -> None:
    reached: list[str] = []
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module[0].register_forward_hook(lambda _, __, out: out.register_hook(lambda _: reached.append("first layer")) and None)
    objective = NetworkObjective(Network(module))
    batch = Batch(torch.randn(5, 3), torch.arange(5) % 2)
    optimizer = ESAM(beta=0.5)
    optimizer.gradient(objective.network.initial, {}, Step(objective, batch, StepPlan(mask=(False, False, True, True))))
    assert len(reached) == 1  # the descent pass alone


def test_degenerate_settings_say_so() -> None:
    assert "SAM" in (ESAM().reduction_reason(0) or "")
    assert "SAM" in (ESAM(beta=0.5).reduction_reason(1) or "")
    assert ESAM(beta=0.5).reduction_reason(5) is None
    assert ESAM(gamma=0.5).reduction_reason(1) is None
