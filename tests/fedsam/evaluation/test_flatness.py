"""Measures by name: what they say of a vector, where they draw, and what they hold in memory."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass, field
from typing import get_args

import pytest
import torch
from torch import Tensor

from fedsam.config import Flatness, parse
from fedsam.data import datasets
from fedsam.data.datasets import Dataset
from fedsam.data.federated import FederatedDataset
from fedsam.evaluation.flatness import FLATNESS_MEASURES, FlatnessResult, measure
from fedsam.evaluation.hessian import hessian_top
from fedsam.evaluation.loss import Loss, batch_sizes
from fedsam.models.network import Network
from tests.support.networks import normed, tiny

SETTINGS = Flatness(batch_size=16, probes=4, iterations=3, draws=3, points=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits")


def at(w: Tensor, name: str, dataset: Dataset, network: Network, settings: Flatness = SETTINGS, seed: int = 0) -> FlatnessResult:
    images = datasets.Images(dataset.train.x[:40], dataset.train.y[:40])
    return measure(name, network, w, network.buffers, images, dataset, settings, seed)


def small(dataset: Dataset) -> Network:
    torch.manual_seed(0)
    return Network(tiny(dataset.image, dataset.classes))


def test_every_measure_of_the_settings_is_known() -> None:
    (names,) = get_args(Flatness.model_fields["measures"].annotation)[:1]
    assert set(get_args(names)) == set(FLATNESS_MEASURES)


@pytest.mark.parametrize("name", FLATNESS_MEASURES)
def test_a_measure_names_its_errors_and_counts_its_cost(name: str, digits: Dataset) -> None:
    network = small(digits)
    found = at(network.initial, name, digits, network)
    assert all(math.isfinite(value) for value in found.values.values())
    estimates = {key for key in found.values if not key.endswith("_error")}
    assert {f"{key}_error" for key in estimates} == found.values.keys() - estimates
    assert (found.slice is None) == bool(estimates)
    assert sum(found.cost) > 0 and found.seconds > 0


@pytest.mark.parametrize(
    ("name", "radius"),
    {
        "worst": "rho",
        "worst_adaptive": "rho_adaptive",
        "average": "rho_average",
        "average_adaptive": "rho_average_adaptive",
    }.items(),
)
def test_each_sharpness_has_a_radius_of_its_own(name: str, radius: str, digits: Dataset) -> None:
    network = small(digits)
    radii = ("rho", "rho_adaptive", "rho_average", "rho_average_adaptive")
    found = {key: at(network.initial, name, digits, network, SETTINGS.model_copy(update={key: 0.3})).values for key in radii}
    assert found.pop(radius) != at(network.initial, name, digits, network).values
    assert all(values == at(network.initial, name, digits, network).values for values in found.values())


@pytest.mark.parametrize("name", FLATNESS_MEASURES)
@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e38])
def test_a_diverged_vector_is_measured_as_not_a_number(name: str, weight: float, digits: Dataset) -> None:
    network = small(digits)
    w = network.initial.clone()
    w[-20:] = weight
    found, sound = at(w, name, digits, network), at(network.initial, name, digits, network)
    assert found.values.keys() == sound.values.keys()
    values = [*found.values.values(), *([] if found.slice is None else found.slice.losses.flatten().tolist())]
    assert values and not any(map(math.isfinite, values))


@pytest.mark.parametrize("name", FLATNESS_MEASURES)
def test_the_network_is_as_before(name: str, digits: Dataset) -> None:
    network = Network(normed(digits.image, digits.classes))
    network.train(statistics=False)
    network.load_(network.initial * 2)
    state = {key: value.clone() for key, value in network.module.state_dict().items()}
    at(network.initial, name, digits, network)
    assert all(torch.equal(value, state[key]) for key, value in network.module.state_dict().items())
    assert network.module.training and not any(parameter.grad is not None for parameter in network.parameters)


@pytest.mark.parametrize("name", FLATNESS_MEASURES)
def test_the_seed_decides_the_draws(name: str, digits: Dataset) -> None:
    network = small(digits)
    one, again, other = (at(network.initial, name, digits, network, seed=seed) for seed in (1, 1, 2))
    assert one.values == again.values
    if name.startswith("worst"):  # draws nothing
        assert one.values == other.values
    elif one.slice is None:
        assert one.values != other.values
    else:
        assert again.slice is not None and other.slice is not None
        assert torch.equal(one.slice.losses, again.slice.losses) and not torch.equal(one.slice.losses, other.slice.losses)


def test_the_line_is_the_middle_of_the_plane(digits: Dataset) -> None:
    network = small(digits)
    line, plane = (at(network.initial, name, digits, network).slice for name in ("line", "plane"))
    assert line is not None and plane is not None and line.alphas == (-1.0, 0.0, 1.0)
    assert torch.allclose(plane.losses[:, 1], line.losses, rtol=0, atol=1e-6)


def test_the_sample_is_the_same_however_it_is_dealt(digits: Dataset) -> None:
    def drawn(clients: int, count: int, seed: int = 0) -> Tensor:
        experiment = parse({"seed": seed, "data": {"dataset": "digits", "clients": clients}})
        return FederatedDataset.of(experiment, digits, torch.device("cpu"), torch.float32).sample(count).x

    assert torch.equal(drawn(3, 50), drawn(7, 50))
    assert len(drawn(3, 50)) == 50
    assert not torch.equal(drawn(3, 50), drawn(3, 50, seed=1))
    assert len(drawn(3, 5000)) == len(digits.train.y)


def alive(size: int) -> int:
    """Vectors of this many values in memory, views of one counted once."""
    found = (thing for thing in gc.get_objects() if type(thing) is Tensor and thing.numel() == size)
    return len({vector.untyped_storage().data_ptr() for vector in found})


@dataclass(frozen=True)
class Watched(Loss):
    """Counts the vectors that are in memory when its last product with the Hessian begins."""

    counts: list[int] = field(default_factory=list)
    last: int = 30

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        self.counts.append(alive(len(w)) if len(self.counts) + 1 == self.last else 0)
        return super().hvp(w, v)


def test_the_basis_is_held_once(digits: Dataset) -> None:
    network = small(digits)
    x, y, w = digits.train.x[:12].double(), digits.train.y[:12], network.initial.double()
    loss = Watched(network.module.double(), torch.empty(0), x, y, batch_sizes(12, 12), prepare=lambda batch: batch / 255)
    before = alive(len(w))
    hessian_top(loss, w, torch.Generator().manual_seed(0), k=5, tol=0.0, max_steps=loss.last)
    # A vector per step, and the one that they started from.
    assert loss.last <= loss.counts[-1] - before <= loss.last + 1
