"""Layouts: a module's tensors as one vector and back."""

import torch
from torch import nn

from fedsam.models.flat import Layout


def module() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3, bias=False))


def test_vector_and_views_are_inverse() -> None:
    net = module()
    layout = Layout.of_module(net)
    w = layout.vector(dict(net.named_parameters()))
    assert w.shape == (layout.size,) == (sum(p.numel() for p in net.parameters()),)
    for name, parameter in net.named_parameters():
        assert torch.equal(layout.views(w)[name], parameter)


def test_views_keep_leading_client_axes_and_share_memory() -> None:
    layout = Layout.of_module(module())
    w = torch.zeros(4, layout.size)
    views = layout.views(w)
    assert views["0.weight"].shape == (4, 2, 1, 3, 3)
    views["0.weight"].fill_(1.0)
    assert w.sum() == 4 * 18


def test_normalization_parameters_are_marked_by_layer_type() -> None:
    assert [s.name for s in Layout.of_module(module()).segments if s.norm] == ["1.weight", "1.bias"]
    assert [s.norm for s in Layout.of_module(nn.GroupNorm(1, 2)).segments] == [True, True]


def test_buffers_are_the_floating_point_ones() -> None:
    assert [s.name for s in Layout.of_buffers(module()).segments] == ["1.running_mean", "1.running_var"]


def test_one_value_per_tensor_is_spread_over_its_scalars() -> None:
    layout = Layout.of([("a", torch.zeros(2)), ("b", torch.zeros(3))])
    assert layout.per_tensor(torch.tensor([1.0, 2.0])).tolist() == [1, 1, 2, 2, 2]
    assert layout.per_tensor(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).shape == (2, 5)


def test_frozen_parameters_are_left_out() -> None:
    net = module()
    net[0].requires_grad_(False)
    assert [s.name for s in Layout.of_module(net).segments] == ["1.weight", "1.bias", "3.weight"]
