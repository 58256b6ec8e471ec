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


def memory() -> tuple[int | None, int | None]:
    """Bytes of main memory that this process may use, and bytes that are free now; the container's limit counts."""
    with suppress(OSError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        limit = _number(Path("/sys/fs/cgroup/memory.max")) or total
        used = _number(Path("/sys/fs/cgroup/memory.current")) or 0
        return min(total, limit), min(free, limit - used if limit < total else free)
    return None, None


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def free_disk(path: Path) -> int:
    """Free bytes where `path` is, or would be made."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


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
