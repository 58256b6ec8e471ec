"""Components of fedsam for clients that do nothing: what a round costs beside arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.optimizers import LocalOptimizer
from clients.optimizers.base import Gradient, State, Step, Stepped
from experiments.benchmarks.ways import plain


@dataclass(frozen=True, kw_only=True)
class Noop(LocalOptimizer):
    """Leaves the weights as they are, and looks at no loss."""

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """Nothing."""
        return torch.zeros_like(w), torch.zeros(step.batch.size), state

    def advance(self, w: Tensor, state: State, step: Step) -> Stepped:
        """Nothing, not even the base step along a gradient of zero."""
        return w, state, torch.zeros(step.batch.size)


class Network(plain.Vectors):
    """A network of a given number of parameters, all but one of which nothing depends on."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__(size)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (B, K), all alike."""
        return self.w[0] * x.flatten(1)[:, :1].expand(-1, self.classes)


def vectors(image: tuple[int, int, int], classes: int, *, size: int) -> nn.Module:
    """A network of `size` parameters."""
    return Network(classes, size)
