"""Facts about this machine, for `fedsam doctor`; what cannot be told is None."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Where a container's limits are, in the second and the first version of Linux's control groups: limit, use, and what of it can be had back.
CGROUPS = {
    Path("/sys/fs/cgroup"): (("memory.max", ""), ("memory.current", ""), ("memory.stat", "inactive_file")),
    Path("/sys/fs/cgroup/memory"): (
        ("memory.limit_in_bytes", ""),
        ("memory.usage_in_bytes", ""),
        ("memory.stat", "total_inactive_file"),
    ),
}


@dataclass(frozen=True)
class Gpus:
    """What the NVIDIA driver and torch say.

    Attributes:
        driver: Version of the driver; None without one.
        supports: Highest CUDA version of the driver, (major, minor).
        names: Of the GPUs, as the driver has them.
        built: CUDA version that torch is built for; None for a CPU build.
        usable: How many GPUs torch can use.
        error: Why torch cannot use them.
    """

    driver: str | None
    supports: tuple[int, int] | None
    names: Sequence[str]
    built: str | None
    usable: int
    error: str | None = None


def gpus() -> Gpus:
    """The GPUs of this machine; torch is imported and CUDA is started."""
    import pynvml
    import torch

    driver, supports, names = None, None, list[str]()
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        driver, version = str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlSystemGetCudaDriverVersion())
        supports = version // 1000, version % 1000 // 10
        names = [str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i))) for i in range(pynvml.nvmlDeviceGetCount())]
        pynvml.nvmlShutdown()
    error = None
    if names:
        try:
            torch.zeros(1, device="cuda")
        except (RuntimeError, AssertionError) as failure:  # a CPU build asserts
            error = str(failure).splitlines()[0]
    return Gpus(driver, supports, names, torch.version.cuda, torch.cuda.device_count() if names and not error else 0, error)


def memory() -> tuple[int, int]:
    """Bytes of main memory that this process may use, and bytes that are free now; the container's limit counts."""
    machine = psutil.virtual_memory()
    for folder, names in CGROUPS.items():
        limit, used, cached = (_number(folder / file, key) for file, key in names)
        if limit is not None and used is not None and limit < machine.total:
            return limit, min(machine.available, limit - used + (cached or 0))
    return machine.total, machine.available


def _number(file: Path, key: str) -> int | None:
    """The number in a file, or of the line that begins with `key`."""
    with suppress(OSError, ValueError, StopIteration):
        text = file.read_text()
        return int(text if not key else next(line.split()[1] for line in text.splitlines() if line.startswith(f"{key} ")))
    return None


def free_disk(path: Path) -> int:
    """Free bytes where `path` is, or would be made."""
    return shutil.disk_usage(_nearest(path)).free


def obstacle(path: Path) -> str | None:
    """Why nothing can be written into the folder `path`, or the folder cannot be made."""
    nearest = _nearest(path)
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} must not be written to"


def _nearest(path: Path) -> Path:
    """`path`, or the folder above it that there is."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def shared_memory() -> int | None:
    """Size of /dev/shm in bytes."""
    path = Path("/dev/shm")
    return shutil.disk_usage(path).total if path.exists() else None


def open_files() -> int:
    """How many files a process may have open, unless it asks for more."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def address() -> str:
    """The address of this machine that others, and Ray's processes, reach it by."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as routed:
        routed.connect(("192.0.2.1", 9))  # sends nothing: only asks for the route to an address that nobody has
        return str(routed.getsockname()[0])
    return "127.0.0.1"


def reachable(host: str, port: int, timeout: float = 3.0) -> bool:
    """Whether something answers at HOST:PORT."""
    with suppress(OSError), socket.create_connection((host, port), timeout):
        return True
    return False


def reaches_itself() -> bool:
    """Whether this machine can connect to a port of its own by its address, as Ray's processes do."""
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen(1)
        return reachable(address(), listening.getsockname()[1])


def cpus() -> tuple[str, int]:
    """The processor's architecture, and how many CPUs there are."""
    return platform.machine(), os.cpu_count() or 1
