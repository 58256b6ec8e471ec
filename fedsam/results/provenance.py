"""The provenance of runs: code, versions, device and command."""

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

DATA_FILES = "data_files"  # the name of their hash among the versions
PACKAGES = ("fedsam", "torch", "torchvision", "flwr", "ray", "numpy")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Code, device and command of a run; with config and seed, enough to repeat it.

    Attributes:
        versions: Versions of Python and packages; `sha256:...` for code and data that have no version.
        git_commit: With `-dirty` where tracked files differ; `unknown` outside a checkout.
        device: Names of the GPUs or the CPU.
        command: The command line, quoted for a shell.
    """

    versions: Mapping[str, str]
    git_commit: str
    device: str
    command: str

    @property
    def sources(self) -> dict[str, str]:
        """The hashes among the versions: of modules of components, and of custom data."""
        return {name: version for name, version in self.versions.items() if version.startswith("sha256:")}


def source_hashes(sources: Sequence[Source], data: str = "") -> dict[str, str]:
    """Hashes of modules and data without a version, by name; arguments as of `provenance`."""
    return digests(sources) | ({"data": data} if data else {})


def provenance(*, gpu: bool = False, sources: Sequence[Source] = (), data: str = "", files: str = "") -> Provenance:
    """The provenance of runs of this process.

    Args:
        gpu: Whether the device is the GPUs of this machine, if it has any, instead of its CPU.
        sources: Modules of components that have no version.
        data: Hash of a custom dataset; empty for others.
        files: Hash of the files of an official dataset; empty for others.
    """
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    versions |= source_hashes(sources, data) | ({DATA_FILES: files} if files else {})
    # The console script as a user types it; other commands as the interpreter received them.
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
        # An installed copy may lie in the virtual environment of another checkout, whose commit is not ours.
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
    """Names of the GPUs; empty without any."""
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
