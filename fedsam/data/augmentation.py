"""Normalization and random augmentation of a batch of images on its device.

Legend: `x: (B, C, H, W)` images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsam.config import Augmentation, ConfigError

CROP_PADDING = 4  # pixels on each side for the random crop
CUTOUT_SIZE = 16  # pixels, the side of the square of cutout


def normalize(x: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels 0..255 (B, C, H, W) normalized per channel to `dtype`: (x / 255 - mean) / std, in the same order of axes in memory."""
    rows = x.movedim(1, -1)
    if not rows.is_contiguous():
        scale, shift = _scale_and_shift(tuple(mean), tuple(std), x.device, dtype)
        return x.to(dtype).mul_(scale).add_(shift)
    # Whole rows at once, as operations along an axis of three values are seven times slower.
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), x.device, dtype, x.shape[-1])
    flat = rows.to(dtype).flatten(2)
    return flat.mul_(scale).add_(shift).view(rows.shape).movedim(-1, 1)


@lru_cache
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """What normalization multiplies by and adds: two passes over a batch instead of three; computed in float64.

    (C, 1, 1), or with `width` for rows of pixels with the channels last, (W * C,).
    """
    center, spread = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    both = 1 / (255 * spread), -center / spread
    scale, shift = ((v.view(-1, 1, 1) if width is None else v.repeat(width)).to(device, dtype) for v in both)
    return scale, shift


def augment(x: Tensor, kinds: Sequence[str], rng: torch.Generator) -> Tensor:
    """Normalized images (B, C, H, W) with random changes drawn for each image, in the order flip, crop, cutout.

    - `flip` mirrors left and right with probability 0.5;
    - `crop` takes a window of the same size, uniform in place, out of the image padded by 4 zeros on each side;
    - `cutout` sets a 16 x 16 square to zero with probability 0.5; its centre is a uniform pixel, so a part may fall outside.

    Zeros are added to normalized images, so they stand for the mean colour, not for black.

    Source: flip and crop after normalization as in FL-Simulator (github.com/woodenchild95/FL-Simulator), which crops half of the
    images, where we crop all; cutout: DeVries and Taylor, 2017, arXiv:1708.04552.

    Args:
        kinds: Names of `AUGMENTATIONS`.
        rng: On any device. Numbers are drawn there and moved, so a CPU generator gives the same result on every device.

    Raises:
        ConfigError: A kind is not known.
    """
    if unknown := [kind for kind in kinds if kind not in AUGMENTATIONS]:
        raise ConfigError(f"data.augment: {unknown[0]!r} is not known; allowed: {', '.join(AUGMENTATIONS)}")
    for kind, change in AUGMENTATIONS.items():
        if kind in kinds:
            x = change(x, rng)
    return x


def _flip(x: Tensor, rng: torch.Generator) -> Tensor:
    return torch.where(_coin(x, rng).view(-1, 1, 1, 1), x.flip(-1), x)


def _crop(x: Tensor, rng: torch.Generator) -> Tensor:
    height, width = x.shape[-2:]
    windows = F.pad(x, (CROP_PADDING,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # (B, C, top, left, H, W), a view
    top, left = torch.randint(2 * CROP_PADDING + 1, (2, len(x)), generator=rng, device=rng.device).to(x.device)
    return windows[torch.arange(len(x), device=x.device), :, top, left]


def _cutout(x: Tensor, rng: torch.Generator) -> Tensor:
    rows, columns = (_near(x, side, rng) for side in x.shape[-2:])
    hole = rows[:, :, None] & columns[:, None, :] & _coin(x, rng).view(-1, 1, 1)
    return x.masked_fill(hole[:, None], 0)


def _near(x: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Whether each of `side` coordinates lies in the hole around a random centre: (B, side)."""
    centre = torch.randint(side, (len(x), 1), generator=rng, device=rng.device).to(x.device)
    offset = torch.arange(side, device=x.device) - centre
    return (offset >= -CUTOUT_SIZE // 2) & (offset < CUTOUT_SIZE // 2)


def _coin(x: Tensor, rng: torch.Generator) -> Tensor:
    return (torch.rand(len(x), generator=rng, device=rng.device) < 0.5).to(x.device)


AUGMENTATIONS: dict[Augmentation, Callable[[Tensor, torch.Generator], Tensor]] = {"flip": _flip, "crop": _crop, "cutout": _cutout}
