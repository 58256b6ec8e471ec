"""This process: torch's threads, what the C library's allocator does with freed memory, the most that it has had, and Python's garbage."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as in malloc.h of glibc
LARGEST_BLOCK, KEPT = 2**25, 2**29  # bytes: the largest threshold that glibc allows; what stays with the process although it is free

# Set in commands and actors, which the project starts; in a user's own process garbage is collected as ever. A process has one collector.
_own = Event()


def pause_collection() -> None:
    """Collect no garbage until `resume_collection`, in this process, which is one of the project's.

    Python looks through all objects whenever a quarter more of them are there. Imports of torch, Flower and Ray make half a million,
    nearly all of which stay: a seventh of the time of these imports goes to that search.
    """
    _own.set()
    gc.disable()


def resume_collection() -> None:
    """Collect garbage again where that was paused, among what is made from now on."""
    if _own.is_set() and not gc.isenabled():
        gc.freeze()
        gc.enable()


def exempt_from_collection() -> None:
    """Look for no garbage among what is there by now, in a process of the project's that is to end soon."""
    if _own.is_set():
        gc.freeze()


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


def peak_memory() -> tuple[int, int | None]:
    """Peak resident bytes of this process, and peak bytes allocated on its GPU (None without one)."""
    import resource

    import torch

    device = int(torch.cuda.max_memory_allocated()) if torch.cuda.is_initialized() else None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, device
