"""The small objectives of the contracts, and examples for them."""

from __future__ import annotations

import torch

from clients.objective import Batch
from experiments.contracts.objectives import Quadratic, Softmax, layout_of, random_batches

__all__ = ["Quadratic", "Softmax", "at_origin", "layout_of", "random_batches"]


def at_origin(size: int = 1, features: int = 2) -> Batch:
    """Examples that a `Quadratic` is smallest at 0 for."""
    return Batch(torch.zeros(size, features, dtype=torch.float64), torch.zeros(size, dtype=torch.long))
