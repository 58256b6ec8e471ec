"""Normalization and augmentation of a batch."""

from __future__ import annotations

import pytest
import torch

from fedsam.config import ConfigError
from fedsam.data.augmentation import augment, normalize
from fedsam.data.dataset import Images


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalize(dtype: torch.dtype) -> None:
    x = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    kept = x.clone()
    y = normalize(x, (0.5, 0.2), (0.25, 0.1), dtype)
    torch.testing.assert_close(y, torch.tensor([[[[-2.0, 2.0]], [[0.0, 2.0]]]], dtype=dtype))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_in_memory_changes_no_bit_and_is_kept(channels: int, dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (20, channels, 28, 32), dtype=torch.uint8, generator=seeded())
    mean, std = (0.4914, 0.4822, 0.4465, 0.5)[:channels], (0.2470, 0.2435, 0.2616, 0.1)[:channels]
    first, last = Images(pixels, torch.arange(20)), Images(pixels.contiguous(memory_format=torch.channels_last), torch.arange(20))
    index = torch.tensor([3, 19, 3, 0])
    one, other = first.select(index), last.select(index)
    assert torch.equal(one.x, pixels[index])
    assert torch.equal(other.x, pixels[index])
    assert one.y.tolist() == other.y.tolist() == index.tolist()
    x, y = normalize(one.x, mean, std, dtype), normalize(other.x, mean, std, dtype)
    assert torch.equal(x, y)
    assert (x.is_contiguous(), y.is_contiguous(memory_format=torch.channels_last)) == (True, True)
    kinds = ("flip", "crop", "cutout")
    assert torch.equal(augment(x, kinds, seeded(1)), augment(y, kinds, seeded(1)))


def batch(count: int = 400) -> torch.Tensor:
    """Images whose pixels tell where they are from, none of them zero."""
    return (torch.arange(3 * 28 * 32).reshape(1, 3, 28, 32) + 1.0).repeat(count, 1, 1, 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_is_the_identity() -> None:
    assert torch.equal(augment(batch(2), (), seeded()), batch(2))


def test_flip() -> None:
    x = batch()
    y = augment(x, ("flip",), seeded())
    flipped = (y == x.flip(-1)).flatten(1).all(1)
    kept = (y == x).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert 150 < flipped.sum() < 250


def test_crop_takes_every_window() -> None:
    x = batch(2000)
    padded = torch.nn.functional.pad(x[0], (4, 4, 4, 4))
    windows = {padded[:, top : top + 28, left : left + 32].numpy().tobytes() for top in range(9) for left in range(9)}
    assert len(windows) == 81
    assert {image.numpy().tobytes() for image in augment(x, ("crop",), seeded())} == windows


def test_cutout() -> None:
    x = batch(2000)
    y = augment(x, ("cutout",), seeded())
    zero = (y == 0).any(1)
    assert torch.equal(zero, (y == 0).all(1))  # the hole is the same in all channels
    assert torch.equal(torch.where(zero[:, None], 0, x), y)
    rows, columns = zero.any(2).sum(1), zero.any(1).sum(1)
    assert torch.equal(rows * columns, zero.sum((1, 2)))  # one rectangle each
    assert 900 < (rows > 0).sum() < 1100
    assert rows.max() == columns.max() == 16
    assert rows[rows > 0].min() == columns[columns > 0].min() == 8  # the centre lies in the image


@pytest.mark.parametrize("kinds", [("flip",), ("crop",), ("cutout",), ("crop", "flip", "cutout")])
def test_augmentation_is_a_function_of_the_generator(kinds: tuple[str, ...]) -> None:
    x = batch(20)
    first, again, other = (augment(x, kinds, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(x, batch(20))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, augment(x, kinds[::-1], seeded()))  # the order is fixed


def test_augment_follows_its_order() -> None:
    rng, steps = seeded(), batch(50)
    for kind in ("flip", "crop", "cutout"):
        steps = augment(steps, (kind,), rng)
    assert torch.equal(steps, augment(batch(50), ("cutout", "crop", "flip"), seeded()))


def test_unknown_augmentation() -> None:
    with pytest.raises(ConfigError, match=r"data\.augment: 'rotate' is not known; allowed: flip, crop, cutout"):
        augment(batch(1), ("flip", "rotate"), seeded())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    pixels = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    mean, std, kinds = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), ("crop", "flip", "cutout")
    x, x_gpu = normalize(pixels, mean, std), normalize(pixels.cuda(), mean, std)
    torch.testing.assert_close(x_gpu.cpu(), x)
    assert torch.equal(augment(x.cuda(), kinds, seeded()).cpu(), augment(x, kinds, seeded()))
    assert augment(x_gpu, kinds, torch.Generator("cuda")).is_cuda
