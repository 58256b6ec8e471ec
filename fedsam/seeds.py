"""Independent random generators, one for each use, derived from the experiment's seed alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A generator that depends on its arguments and on nothing else.

    Args:
        purpose: What the draws are for (`"partition"`, `"cohort"`, `"batches"`); different purposes are independent.
        indices: Usually the round, or the round and the client.

    >>> bool(stream(0, "cohort", 3).random() == stream(0, "cohort", 3).random())
    True
    """
    # Hashed as text: SeedSequence([seed, ...]) would ignore trailing zeros, so that client 0 shared its draws with no client.
    words = hashlib.sha256(repr((int(seed), purpose, *map(int, indices))).encode()).digest()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(int.from_bytes(words[:16], "little"))))


def tensor_stream(seed: int, purpose: str, *indices: int, device: str | torch.device = "cpu") -> torch.Generator:
    """`stream` as a torch generator on `device`, for draws that happen there."""
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(int(stream(seed, purpose, *indices).integers(2**63)))
    return generator
