"""Networks small enough for a dense Hessian; experiments name them as `tests.support.networks:NAME`."""

from __future__ import annotations

from torch import nn

from fedsam.models.architectures import ImageShape


def tiny(image: ImageShape, classes: int) -> nn.Module:
    """226 parameters for grey images of 32 x 32 and ten classes."""
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16 * image[0], 8), nn.Tanh(), nn.Linear(8, classes))


def tiniest(image: ImageShape, classes: int) -> nn.Module:
    """20 parameters for ten classes."""
    return nn.Sequential(nn.AvgPool2d(image[1:]), nn.Flatten(), nn.Linear(image[0], classes))


def normed(image: ImageShape, classes: int) -> nn.Module:
    """A network with running statistics."""
    return nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(image[0]), nn.Flatten(), nn.Linear(16 * image[0], classes))
