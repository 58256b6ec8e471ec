"""Convolutions with few channels compute what `torch.nn.Conv2d` does."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import conv2d

from fedsam.models import architectures, narrow
from fedsam.models.narrow import LANES, NarrowConv2d, as_written
from fedsam.models.network import Network
from fedsam.system.cost import count_flops

CASES = [(3, 6, 5, 0), (1, 6, 5, 2), (1, 6, 5, 0), (2, 8, 3, 0), (3, 1, 1, 2)]  # channels, output channels, kernel, padding


def images(channels: int, width: int = 12, count: int = 4, memory: torch.memory_format = torch.channels_last) -> Tensor:
    x = torch.randn(count, channels, 10, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=memory)


def layer(*settings: int) -> NarrowConv2d:
    torch.manual_seed(0)
    return NarrowConv2d(*settings).double()


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_conv2d(case: tuple[int, int, int, int]) -> None:
    channels, out, _, padding = case
    ours, x = layer(*case), images(channels).requires_grad_()
    y, expected = ours(x), conv2d(x, ours.weight, ours.bias, padding=padding)
    assert y.shape[1] == LANES and expected.shape[1] == out and not y[:, out:].any()
    torch.testing.assert_close(y[:, :out], expected, rtol=1e-12, atol=1e-12)
    wanted = (ours.weight, ours.bias, x)
    found, expected_gradients = torch.autograd.grad(y.pow(2).sum(), wanted), torch.autograd.grad(expected.pow(2).sum(), wanted)
    for g, e in zip(found, expected_gradients, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-12)


def test_second_derivatives() -> None:
    ours, x = layer(2, 3, 3), images(2, 4, 1).requires_grad_()

    def value(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        y: Tensor = functional_call(ours, {"weight": weight, "bias": bias}, (x.contiguous(memory_format=torch.channels_last),))
        return y.sigmoid().sum()

    assert torch.autograd.gradgradcheck(value, (ours.weight, ours.bias, x))


def test_gradients_of_single_examples() -> None:
    ours, x = layer(3, 6, 5), images(3)

    def value(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        y: Tensor = functional_call(ours, parameters, (image[None],))
        return y.pow(2).sum()

    parameters = dict(ours.named_parameters())
    each = vmap(grad(value), (None, 0))(parameters, x)["weight"]
    expected = torch.stack([grad(value)(parameters, image)["weight"] for image in x])
    torch.testing.assert_close(each, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "x"),
    [
        ((3, 6, 5, 0), images(3, 11)),  # an odd width
        ((3, 6, 5, 1), images(3)),  # an odd padding
        ((3, 6, 4, 0), images(3)),  # an even kernel
        ((3, 9, 5, 0), images(3)),  # too many channels
        ((3, 6, 5, 0), images(3, memory=torch.contiguous_format)),  # the channels not last in memory
    ],
)
def test_other_convolutions_are_plain(case: tuple[int, int, int, int], x: Tensor) -> None:
    ours = layer(*case)
    assert torch.equal(ours(x), conv2d(x, ours.weight, ours.bias, padding=case[3]))


def test_channels_beyond_those_of_the_layer_before_are_left_out() -> None:
    first, second, x = layer(3, 6, 5), layer(6, 16, 3), images(3)
    y = second(nn.functional.relu(first(x)))
    with as_written():
        expected = second(nn.functional.relu(first(x)))
    assert first(x).shape[1] == LANES and y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_columns_are_paired_in_the_shipped_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        calls.append(tuple(x.shape))
        return conv2d(x, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(narrow.F, "conv2d", counted)
    for image in ((3, 32, 32), (1, 28, 28)):
        network = Network(architectures.lenet5(image, 10))
        calls.clear()
        network(network.initial, torch.zeros(2, *image))
        assert calls[0] == (2, 2 * image[0], image[1], image[2] // 2)


def test_operations_are_counted_as_written() -> None:
    flops = count_flops(Network(architectures.lenet5((1, 28, 28), 10)), (1, 28, 28))
    convolutions = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25
    assert flops.forward == 2 * (convolutions + 400 * 120 + 120 * 84 + 84 * 10)


def test_pickled_and_of_the_same_names() -> None:
    ours, theirs = layer(3, 6, 5), nn.Conv2d(3, 6, 5).double()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(pickle.loads(pickle.dumps(ours))(images(3)), ours(images(3)))


def test_weights_are_the_same_for_training_after_a_pass_in_inference_mode() -> None:
    narrow._places.cache_clear()
    ours, x = layer(3, 6, 5), images(3)
    with torch.inference_mode():
        inferred = ours(x).clone()
    y = ours(x)
    assert torch.equal(y, inferred) and torch.autograd.grad(y.sum(), [ours.weight])[0].any()


def test_images_with_other_channels_are_refused() -> None:
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 4 channels"):
        layer(3, 6, 5)(images(4))
