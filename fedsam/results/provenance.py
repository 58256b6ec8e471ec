"""Which code ran where, and whether the process that wrote a run still lives."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedsam.module_sources import Source, digests

PACKAGES = ("fedsam", "torch", "torchvision", "flwr", "ray", "numpy")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which code ran where: enough, with the config and the seed, to run it again."""

    versions: Mapping[str, str]
    git_commit: str
    device: str
    command: str

    @property
    def sources(self) -> dict[str, str]:
        """The hashes among the versions: of modules that components come from, and of somebody's own data."""
        return {name: version for name, version in self.versions.items() if version.startswith("sha256:")}


def fingerprints(sources: Sequence[Source], data: str = "") -> dict[str, str]:
    """Hashes of what has no version, by name: arguments as of `provenance`."""
    return digests(sources) | ({"data": data} if data else {})


def provenance(*, gpu: bool = False, sources: Sequence[Source] = (), data: str = "") -> Provenance:
    """Which code this process runs, on what device, by which command.

    Args:
        gpu: Name the GPUs of this machine, instead of its CPU; a cluster's head may have none.
        data: Hash of the dataset, where it is somebody's own.
        sources: Modules that components come from and that have no version; the hash of their files stands in its place.
    """
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    versions |= fingerprints(sources, data)
    # A console script is quoted as a person types it; anything else exactly as the interpreter got it.
    script = Path(sys.argv[0]).name
    words = [script, *sys.argv[1:]] if script == "fedsam" else sys.orig_argv
    return Provenance(
        versions=versions, git_commit=_git_commit(Path(__file__)), device=(gpu and _gpus()) or _cpu(), command=shlex.join(words)
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_commit(file: Path) -> str:
    """The commit of the checkout that tracks `file`, with `-dirty` when tracked files differ from it; else `unknown`."""
    git = ["git", "--no-optional-locks", "-C", str(file.parent)]
    asked = {"check": True, "capture_output": True, "text": True, "timeout": 10}
    try:
        # An installed copy may lie inside somebody else's checkout, in a virtual environment: then its commit is not ours.
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], **asked)  # type: ignore[call-overload]
        described = subprocess.run([*git, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"], **asked)  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return str(described.stdout).strip()


def _cpu() -> str:
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} CPUs"


def _gpus() -> str:
    """The GPUs; empty where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        names = [pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def gone(host: str, pid: int, birth: str) -> bool:
    """Whether the process, born at `birth`, is known to have ended; of another host nothing is known."""
    if host != platform.node() or os.name != "posix":
        return False
    if birth:
        return born(pid) != birth
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def born(pid: int) -> str:
    """When a process started, in clock ticks since boot, as a number can be given again; empty when it is gone or there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
