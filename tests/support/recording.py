"""An objective that remembers its passes, a network with running statistics, and the step that most hand calculations start from.

`HILL` at `START` has the gradient (3, 4), of norm 5; `SAM` with `RHO` moves by (0.3, 0.4) and finds the gradient (3.6, 4.4) there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from clients.objective import Batch, Counted, NetworkObjective, Objective
from clients.optimizers.base import LocalOptimizer, State, Task
from fedsam.models.flat import Layout
from fedsam.models.network import Network
from tests.support.objectives import Quadratic

START = torch.tensor([1.5, 4.0], dtype=torch.float64)
RHO = 0.5
NO_DRAW = np.random.default_rng(0)  # for methods that draw nothing


def hill(layout: Layout | None = None) -> Quadratic:
    """The quadratic `w0**2 + w1**2 / 2`."""
    return Quadratic([2.0, 1.0], layout)


def vector(*values: float) -> Tensor:
    """A vector in float64."""
    return torch.tensor(values, dtype=torch.float64)


def step(
    optimizer: LocalOptimizer,
    w: Tensor,
    batch: Batch,
    objective: Objective | None = None,
    state: State | None = None,
    task: Task | None = None,
) -> tuple[Tensor, State, Tensor]:
    """One step on the hill, from a fresh state unless one is given."""
    state = optimizer.init(w, task or Task()) if state is None else state
    return optimizer.step(w, state, objective or hill(), batch, NO_DRAW)


@dataclass
class Watched(Counted):
    """Counts the passes and remembers where gradients were taken.

    Attributes:
        points: The parameters of each gradient (P,).
        masks: Its mask.
        sizes: Its number of examples.
    """

    points: list[Tensor] = field(default_factory=list)
    masks: list[Sequence[bool] | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Objective.grad`, remembered."""
        self.points.append(w)
        self.masks.append(mask)
        self.sizes.append(batch.size)
        return super().grad(w, batch, mask=mask, weights=weights)


def batchnorm_network() -> NetworkObjective:
    """A network with running statistics, for batches of three features and two classes; always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return NetworkObjective(Network(module, dtype=torch.float64))


def statistics_after(*passes: tuple[Tensor, Batch]) -> Tensor:
    """The running statistics (Q,) that these passes, each the first of a step, leave in `batchnorm_network`."""
    objective = batchnorm_network()
    for w, batch in passes:
        objective.begin()
        objective.losses(w, batch)
    return objective.network.buffers
