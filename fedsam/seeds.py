"""Independent random generators, one for each use, derived from the experiment's seed alone."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    digest = hashlib.sha256(repr((int(seed), purpose, *map(int, indices))).encode()).digest()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(np.frombuffer(digest, "<u4", 4))))


def tensor_stream(seed: int, purpose: str, *indices: int, device: str | torch.device = "cpu") -> torch.Generator:
    """`stream` as a torch generator on `device`, for draws that happen there."""
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(int(stream(seed, purpose, *indices).integers(2**63)))
    return generator


_innermost = threading.local()  # block of this thread: `keeps` says whether it keeps the state of Python's generator
_SPARE: list[np.random.MT19937] = []  # to swap NumPy's for one of them takes a hundredth of the time of saving and restoring its state


@contextmanager
def kept_python_generator() -> Iterator[None]:
    """Python's global generator goes on as before after the block, whose blocks of `seeded_globals` leave that to it.

    To save and restore its state takes as long as all else of such a block.
    """
    before, state = getattr(_innermost, "keeps", False), random.getstate()
    try:
        _innermost.keeps = True
        yield
    finally:
        _innermost.keeps = before
        random.setstate(state)


@contextmanager
def seeded_globals(seed: int, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """The global generators of torch, NumPy and Python start from `seed` inside the block, and go on as before after it.

    Directly in a block of `kept_python_generator`, Python's does so after that one.

    For what others wrote and draws from them: a model's initial tensors, dropout.

    Args:
        devices: Accelerators whose generator is meant too; the CPU's always is.
    """
    import torch

    kept = getattr(_innermost, "keeps", False)
    python, generator = None if kept else random.getstate(), np.random.mtrand.get_bit_generator()
    states = [torch.default_generator.get_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    borrowed = _SPARE.pop() if _SPARE else np.random.MT19937()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the accelerators that are not meant
    for device in devices:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    np.random.mtrand.set_bit_generator(borrowed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        _innermost.keeps = False
        yield
    finally:
        _innermost.keeps = kept
        torch.default_generator.set_state(states[0])
        for device, state in zip(devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
        if python is not None:
            random.setstate(python)
        np.random.mtrand.set_bit_generator(generator)
        _SPARE.append(borrowed)
