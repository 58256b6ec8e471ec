"""Facts about this machine for `fedsam doctor`; None where a fact is unknown."""

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

# Files of a container's memory limit, use and reclaimable cache, in versions 2 and 1 of Linux control groups.
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
    """The GPUs as the NVIDIA driver and torch report them.

    Attributes:
        driver: Version of the driver; None without one.
        driver_cuda: Highest CUDA version that the driver supports, (major, minor); None without a driver.
        names: Names of the GPUs.
        torch_cuda: CUDA version that torch is built for; None for a CPU build.
        usable: Number of GPUs that torch can use.
        error: Why torch cannot use them; None if it can.
    """

    driver: str | None
    driver_cuda: tuple[int, int] | None
    names: Sequence[str]
    torch_cuda: str | None
    usable: int
    error: str | None = None


def gpus() -> Gpus:
    """The GPUs of this machine; imports torch and initializes CUDA."""
    import pynvml
    import torch

    driver, driver_cuda, names = None, None, list[str]()
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        driver, version = str(pynvml.nvmlSystemGetDriverVersion()), int(pynvml.nvmlSystemGetCudaDriverVersion())
        driver_cuda = version // 1000, version % 1000 // 10
        names = [str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i))) for i in range(pynvml.nvmlDeviceGetCount())]
        pynvml.nvmlShutdown()
    error = None
    if names:
        try:
            torch.zeros(1, device="cuda")
        except (RuntimeError, AssertionError) as failure:  # a CPU build asserts
            error = str(failure).splitlines()[0]
    return Gpus(driver, driver_cuda, names, torch.version.cuda, torch.cuda.device_count() if names and not error else 0, error)


def memory() -> tuple[int, int]:
    """Bytes of main memory that this process may use, and free bytes, within the limit of its container."""
    machine = psutil.virtual_memory()
    for folder, names in CGROUPS.items():
        limit, used, cached = (_number(folder / file, key) for file, key in names)
        if limit is not None and used is not None and limit < machine.total:
            return limit, min(machine.available, limit - used + (cached or 0))
    return machine.total, machine.available


def _number(file: Path, key: str) -> int | None:
    """The number in a file, or in its line that begins with `key`; None where there is none."""
    with suppress(OSError, ValueError, StopIteration):
        text = file.read_text()
        return int(text if not key else next(line.split()[1] for line in text.splitlines() if line.startswith(f"{key} ")))
    return None


def free_disk(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist."""
    return shutil.disk_usage(_nearest(path)).free


def obstacle(path: Path) -> str | None:
    """Why the folder `path` cannot be created or written to; None if it can."""
    nearest = _nearest(path)
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} must not be written to"


def _nearest(path: Path) -> Path:
    """`path`, or its nearest parent that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def shared_memory() -> int | None:
    """Size of /dev/shm in bytes; None where there is none."""
    path = Path("/dev/shm")
    return shutil.disk_usage(path).total if path.exists() else None


def open_files() -> int:
    """The soft limit on the number of open files of a process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def address() -> str:
    """The IP address at which other machines, and Ray's processes, reach this machine."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as routed:
        routed.connect(("192.0.2.1", 9))  # sends nothing; the address is reserved for documentation
        return str(routed.getsockname()[0])
    return "127.0.0.1"


def reachable(host: str, port: int, timeout: float = 3.0) -> bool:
    """Whether a TCP connection to HOST:PORT succeeds."""
    with suppress(OSError), socket.create_connection((host, port), timeout):
        return True
    return False


def reaches_itself() -> bool:
    """Whether this machine can connect to its own address, as Ray's processes do."""
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen(1)
        return reachable(address(), listening.getsockname()[1])


def cpus() -> tuple[str, int]:
    """The architecture of the processor and the number of CPUs."""
    return platform.machine(), os.cpu_count() or 1
