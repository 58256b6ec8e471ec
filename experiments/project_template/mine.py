"""My own components: each is named in config.toml as `mine:NAME`, and checked by `fedsam check mine:NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from clients.optimizers import Gradient, LocalOptimizer, State, Step, StepCost, norm
from fedsam.data.datasets import Dataset
from fedsam.documentation import hyperparameter
from strategies import ServerRule
from strategies.base import Aggregate


def small_cnn(image: tuple[int, int, int], classes: int, *, width: int = 8) -> nn.Module:
    """Two convolutions and a linear layer; `image` is (channels, height, width)."""
    channels, height, columns = image
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (columns // 4), classes),
    )


@dataclass(frozen=True, kw_only=True)
class HalfSAM(LocalOptimizer):
    """Descend with the mean of the gradient here and the gradient at the worst nearby point."""

    # `fedsam check` looks whether both are true.
    cost = StepCost(backward=2)  # gradient evaluations per example and step
    reduces_to_base = {"rho": 0.0}  # with rho 0 it is SGD
    rho: float = hyperparameter(0.05, "Perturbation radius.")

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """The direction to descend, the losses of the first pass, and the state."""
        here, losses = step.grad(w)
        there, _ = step.grad(w + self.rho * here / (norm(here) + 1e-12))
        return (here + there) / 2, losses, state


@dataclass(frozen=True, kw_only=True)
class ClippedMomentum(ServerRule):
    """Move by a running mean of the clients' deltas, never further than `radius`."""

    momentum: float = 0.5
    radius: float = 10.0

    def init_state(self, w: Tensor) -> Mapping[str, Any]:
        """The running mean before the first round."""
        return {"v": 0 * w}

    def server_step(self, w: Tensor, state: Mapping[str, Any], aggregate: Aggregate) -> tuple[Tensor, Mapping[str, Any]]:
        """The next global vector and state; `aggregate.delta` points where the clients went."""
        v = self.momentum * state["v"] + aggregate.delta
        return w + v * (self.radius / (norm(v) + 1e-12)).clamp(max=1.0), {"v": v}


def shapes(*, examples: int = 600, size: int = 16) -> Dataset:
    """Discs, squares and crosses of random place and size, in noise; a sixth of them for testing."""
    rng, kinds = np.random.default_rng(0), ("disc", "square", "cross")
    labels = rng.integers(len(kinds), size=examples)
    place, radius = rng.uniform(5, size - 5, (2, examples, 1, 1)), rng.uniform(2.5, 4.5, (examples, 1, 1))
    down, right = (np.abs(axis - at) for axis, at in zip(np.ogrid[:size, :size], place, strict=True))
    drawn = np.stack(
        [
            np.hypot(down, right) < radius,
            np.maximum(down, right) < radius,
            (np.minimum(down, right) < 1) & (np.maximum(down, right) < radius),
        ]
    )
    images = 0.6 * drawn[labels, np.arange(examples)] + rng.uniform(0, 0.4, (examples, size, size))
    cut = examples // 6
    return Dataset.from_arrays(images[cut:], labels[cut:], images[:cut], labels[:cut], class_names=kinds, name="shapes")
