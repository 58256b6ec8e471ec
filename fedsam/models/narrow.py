"""Convolutions with few channels, whose arithmetic on the CPU is vectorized over the output channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Places = NDArray[np.int64]

LANES = 8  # channels that max-pooling treats at once; two columns of so many fill the 16 lanes of a convolution's vectors

_as_written = ContextVar("as_written", default=False)


class NarrowConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of stride 1 with the same parameters and values, faster on the CPU where it has up to 8 output channels.

    There images with the channels last in memory are read as images of half the width, with the channels of two neighbouring columns
    together, and both columns of the output come from one convolution with twice the output channels, rounded up to 8: weights beyond
    the kernel or the channels are zero. So the output has further channels of zeros, which ReLU and pooling keep at zero, and which
    another `NarrowConv2d` leaves out. On other devices, with odd widths, odd padding or even kernels it is `torch.nn.Conv2d`. See
    `experiments/benchmarks/NOTES.md` for the times.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """The output (N, O, H', W') for images (N, C, H, W); O is the number of output channels, or the next multiple of 8."""
        further = x.shape[1] - self.in_channels
        padded = further > 0 and x.shape[1] == -(-self.in_channels // LANES) * LANES
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, further)) if padded else self.weight
        if not self._pairs_columns(x):
            return F.conv2d(x, weight, self.bias, padding=self.padding)
        (images, channels, height, width), (rows, columns) = x.shape, self.kernel_size
        x = x.permute(0, 2, 3, 1).reshape(images, height, width // 2, 2 * channels).permute(0, 3, 1, 2)
        places, lanes = _places(*self.weight.shape)
        weight = _gathered(self.weight, places).view(-1, rows, (columns + 1) // 2, 2 * channels).permute(0, 3, 1, 2)
        assert self.bias is not None
        pairs = F.conv2d(x, weight, _gathered(self.bias, lanes), padding=(int(self.padding[0]), int(self.padding[1]) // 2))
        _, channels, height, width = pairs.shape
        return pairs.permute(0, 2, 3, 1).reshape(images, height, 2 * width, channels // 2).permute(0, 3, 1, 2)

    def _pairs_columns(self, x: Tensor) -> bool:
        even = x.ndim == 4 and not x.shape[3] % 2 and not int(self.padding[1]) % 2 and self.kernel_size[1] % 2
        return (
            bool(even)
            and self.out_channels <= LANES
            and x.shape[1] == self.in_channels
            and x.device.type == "cpu"
            and not _as_written.get()
            and x.is_contiguous(memory_format=torch.channels_last)
        )


@contextmanager
def as_written() -> Iterator[None]:
    """Inside the block every `NarrowConv2d` is `torch.nn.Conv2d`, with the latter's operations and output channels."""
    token = _as_written.set(True)
    try:
        yield
    finally:
        _as_written.reset(token)


def _gathered(values: Tensor, places: Places) -> Tensor:
    """The values at these places of the flattened tensor, and zero at the place after the last."""
    return F.pad(values.reshape(-1), (0, 1)).index_select(0, torch.from_numpy(places))


@cache
def _places(out: int, channels: int, rows: int, columns: int) -> tuple[Places, Places]:
    """Where the weights of two columns at once, channels last, and their biases are found in a kernel's; zeros are at the end."""
    kernel = np.arange(out * channels * rows * columns).reshape(out, channels, rows, columns)
    pair = np.full((2, LANES, channels, rows, columns + 1), kernel.size)
    pair[0, :out, ..., :-1] = pair[1, :out, ..., 1:] = kernel  # the second column sees the image one further to the right
    places = pair.reshape(2, LANES, channels, rows, (columns + 1) // 2, 2).transpose(0, 1, 3, 4, 5, 2).reshape(-1)
    return places, np.tile(np.arange(LANES).clip(max=out), 2)
