"""Networks small enough for a dense Hessian; experiments name them as `tests.support.networks:NAME`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


class MaskedTransformer(nn.Module):
    """Attention over the rows of a grey image; its causal mask of 0 and -inf is a buffer."""

    def __init__(self, image: ImageShape, classes: int, width: int = 16) -> None:
        super().__init__()
        self.inp = nn.Linear(image[0] * image[2], width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.out = nn.Linear(width, classes)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(image[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Scores from the last row."""
        scores: Tensor = self.out(self.layer(self.inp(x.permute(0, 2, 1, 3).flatten(2)), src_mask=self.mask)[:, -1])
        return scores


class Pair(nn.Module):
    """Gives a tuple, as models with a second head do."""

    def __init__(self, image: ImageShape, classes: int) -> None:
        super().__init__()
        self.body = tiny(image, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and images."""
        return self.body(x), x


def lazy(image: ImageShape, classes: int) -> nn.Module:
    """Layers that have no parameters before they have seen an image."""
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))


def for_mnist(image: ImageShape, classes: int) -> nn.Module:
    """A network for 28 x 28 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))


def headless(image: ImageShape, classes: int) -> nn.Module:
    """One score too many."""
    return tiny(image, classes + 1)


def normed_mlp(image: ImageShape, classes: int) -> nn.Module:
    """BatchNorm that sees one value per example and channel."""
    features = torch.Size(image).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, classes))
