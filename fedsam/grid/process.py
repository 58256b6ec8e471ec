"""Settings of this process: torch's threads, and what the C library's allocator does with freed memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in malloc.h of glibc
LARGEST_BLOCK, KEPT = 2**25, 2**29  # bytes: the largest threshold that glibc allows; what stays with the process although it is free


def keep_freed_memory() -> None:
    """Have this process keep memory that it frees, up to 512 MiB, where the C library is glibc; elsewhere nothing changes.

    Each local step allocates its vectors and activations anew. By default glibc gives such large blocks back to the kernel,
    which has to clear every page again: a tenth of the time of a step of a model with millions of parameters.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Torch computes with so many threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
