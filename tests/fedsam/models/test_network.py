"""A module as a function of its parameter vector, and the running statistics beside it."""

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
