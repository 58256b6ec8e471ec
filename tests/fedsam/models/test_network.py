"""A module as a function of its parameter vector, and the running statistics beside it."""

import copy

import torch
from torch import nn

from fedsam.models.network import Network


def batchnorm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_network_runs_at_any_vector() -> None:
    network = Network(nn.Linear(3, 2))
    x = torch.randn(5, 3)
    w = torch.randn(network.layout.size)
    assert torch.allclose(network(w, x), x @ w[:6].view(2, 3).T + w[6:])
    assert not torch.equal(network(network.initial, x), network(w, x))


def test_only_tracking_passes_move_the_statistics() -> None:
    network, x = Network(batchnorm()), torch.randn(8, 3)
    before = network.buffers
    network.train(statistics=False)
    network.train(statistics=False)  # twice in a row must not freeze them for good
    quiet = network(network.initial, x)
    assert torch.equal(network.buffers, before)
    network.train(statistics=True)
    assert torch.equal(network(network.initial, x), quiet)  # the pass itself is the same
    assert not torch.equal(network.buffers, before)


def test_evaluation_uses_the_statistics_and_leaves_them() -> None:
    network, x = Network(batchnorm()), torch.randn(8, 3)
    network.train(statistics=False)
    before = network.buffers
    with network.evaluating():
        single = network(network.initial, x[:1])
        assert torch.allclose(network(network.initial, x)[:1], single, atol=1e-6)
    assert network.module.training
    assert torch.equal(network.buffers, before)


def test_buffers_can_be_set() -> None:
    network = Network(batchnorm())
    network.buffers = torch.arange(8.0)
    assert network.buffers.tolist() == list(range(8))
    assert Network(nn.Linear(1, 1)).buffers.shape == (0,)


class Constants(nn.Module):
    """Tensors of every kind that do not travel."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.free = nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.full((2,), value), requires_grad=False)
        for name, tensor in {"count": torch.tensor(3), "mask": torch.tensor([True, False]), "phase": torch.tensor([1 + 2j])}.items():
            self.register_buffer(name, tensor)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.frozen += 1
            self.count += 1
            self.mask.logical_not_()
            self.phase = self.phase * 1j
        return self.free(x) * self.frozen


def test_what_does_not_travel_is_put_back_with_the_buffers() -> None:
    network = Network(Constants())
    assert network.constant_names == ["frozen", "count", "mask", "phase"]
    before, start = copy.deepcopy(network.module.state_dict()), network.buffers
    assert before["phase"].dtype == torch.complex64
    network(network.initial, torch.randn(1, 3))
    changed = network.module.state_dict()
    assert not any(torch.equal(before[name], changed[name]) for name in network.constant_names)
    network.buffers = start
    after = network.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_constants_are_known_by_their_digest() -> None:
    digests = [Network(Constants(value)).constants for value in (1.0, 1.0, 1.5)]
    assert digests[0] == digests[1] != digests[2]
    assert Network(nn.Linear(3, 2)).constants is None
