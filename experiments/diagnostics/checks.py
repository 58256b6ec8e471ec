"""The checks of `fedsam doctor`: each takes facts about the machine and returns a finding, a verdict and a remedy."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from experiments.diagnostics import machine
from experiments.diagnostics.machine import Gpus
from fedsam.config import Compute, ConfigError
from fedsam.data import datasets
from fedsam.formatting import listed, size
from fedsam.results.database import DATABASE_NAME
from fedsam.results.integrity import problems

GIB = 2**30
ACTOR_BYTES = GIB  # of an actor that has imported torch and holds a small model
MAX_SOCKET_PATH, RAY_SOCKET_SUFFIX = 107, 64  # characters: of the path of a socket, and of what Ray adds to its folder
DOWNLOAD_SERVER = ("www.cs.toronto.edu", 443)  # from which torchvision downloads CIFAR
PYTHON_VERSIONS = (3, 11), (3, 14)
Resources = Mapping[str, float]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: What was checked.
        found: The finding.
        verdict: `ok`, `warning` or `problem`.
        fix: What to do about a warning or a problem; empty otherwise.
    """

    name: str
    found: str
    verdict: Literal["ok", "warning", "problem"] = "ok"
    fix: str = ""


def examine(data_root: Path, runs_dir: Path, compute: Compute) -> Iterable[CheckResult]:
    """Run all checks of this machine and of the cluster that `compute` names, the slow ones last."""
    total, free = machine.memory()
    actors = _cores()
    yield python(sys.version_info[:2])
    yield from packages(importlib.metadata.requires("fedsam") or (), _installed)
    yield open_files(machine.open_files())
    for what, folder, setting in (
        ("runs", runs_dir, "--runs-dir"),
        ("data", data_root, "--data-root or FEDSAM_DATA"),
        ("temporary files", Path(tempfile.gettempdir()), "TMPDIR"),
    ):
        yield disk(f"disk of the {what}", folder, machine.free_disk(folder), setting, machine.obstacle(folder))
    if (runs_dir / DATABASE_NAME).is_file():
        yield results(problems(runs_dir / DATABASE_NAME))
    yield temporary_folder(tempfile.gettempdir())
    yield memory(total, free, actors)
    yield shared_memory(machine.shared_memory(), total)
    yield ports(machine.address(), reachable=machine.reaches_itself())
    yield data(data_root, _cifar10(), lambda: machine.reachable(*DOWNLOAD_SERVER))
    found = machine.gpus()
    yield gpus(found)
    started, resources = ray(lambda: _start_ray(compute))
    yield started
    if not compute.ray_address:
        yield placement(actors, *machine.cpus(), found.usable)
    elif resources:
        yield placement_on_cluster(_fit(resources, compute), resources)


def python(version: tuple[int, ...]) -> CheckResult:
    """Whether fedsam supports this Python version."""
    found, (low, high) = ".".join(map(str, version)), (".".join(map(str, bound)) for bound in PYTHON_VERSIONS)
    if PYTHON_VERSIONS[0] <= version <= PYTHON_VERSIONS[1]:
        return CheckResult("Python", found)
    return CheckResult("Python", found, "problem", f"install Python {low} to {high} and run `make setup`")


def packages(requirements: Iterable[str], installed: Callable[[str], str | None]) -> Iterable[CheckResult]:
    """Whether required packages are installed in supported versions: a result for each wrong one, for torch, flwr and ray, and for all."""
    needed = [Requirement(text) for text in requirements]
    due = [requirement for requirement in needed if requirement.marker is None or requirement.marker.evaluate({"extra": ""})]
    if not due:
        yield CheckResult("packages", "fedsam is not installed", "problem", "run `make setup`, or `pip install -e .` in the checkout")
    wrong = []
    for requirement in due:
        version = installed(requirement.name)
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        what = f"{requirement.name} {version or 'is not installed'}"
        if not fits:
            wrong.append(f"{requirement.name}{requirement.specifier}")
            yield CheckResult(requirement.name, what, "problem", f"pip install '{requirement.name}{requirement.specifier}'")
        elif requirement.name in ("torch", "flwr", "ray"):
            yield CheckResult(requirement.name, what)
    if due and not wrong:
        yield CheckResult("packages", f"all {len(due)} there, in versions that fit")


def gpus(found: Gpus) -> CheckResult:
    """Whether torch can use the GPUs of the driver."""
    if not found.names:
        return CheckResult(
            "GPU", "none" + (f", though there is driver {found.driver}" if found.driver else "") + ": clients run on the CPU"
        )
    what = f"{listed(found.names)}; driver {found.driver}"
    if found.torch_cuda is None:
        return CheckResult("GPU", f"{what}; torch is a build for CPUs", "problem", "install torch with CUDA: see pytorch.org/get-started")
    what += f"; torch for CUDA {found.torch_cuda}"
    if found.usable:
        return CheckResult("GPU", what)
    if found.driver_cuda and found.driver_cuda[0] < int(found.torch_cuda.partition(".")[0]):
        supported = ".".join(map(str, found.driver_cuda))
        fix = f"the driver supports CUDA up to {supported}: update the driver, or install torch for CUDA {found.driver_cuda[0]}"
        return CheckResult("GPU", what, "problem", fix)
    return CheckResult(
        "GPU", f"{what}; {found.error}", "problem", "see that no other program holds the GPUs (nvidia-smi) and CUDA_VISIBLE_DEVICES"
    )


def open_files(limit: int) -> CheckResult:
    """Whether a process may open enough files: Ray opens a socket to each of its processes."""
    if limit >= 4096:
        return CheckResult("open files", str(limit))
    return CheckResult("open files", str(limit), "warning" if limit >= 1024 else "problem", "ulimit -n 65536 before fedsam")


def results(problems: Sequence[str]) -> CheckResult:
    """Whether the results file is whole, from what is wrong with it."""
    if not problems:
        return CheckResult("results", "whole")
    fix = (
        f"put back a copy, or end all runs, keep copies of {DATABASE_NAME}, -wal and -shm, and save what can be read: "
        f"`sqlite3 {DATABASE_NAME} .recover | sqlite3 new.db`; runs that are lost are made again by `compare`"
    )
    return CheckResult("results", "; ".join(problems), "problem", fix)


def disk(name: str, folder: Path, free: int, setting: str, obstacle: str | None) -> CheckResult:
    """Whether a folder is writable and has free space; `setting` is the option that names another folder."""
    found = f"{size(free)} free in {folder}"
    if obstacle:
        return CheckResult(name, f"{folder}: {obstacle}", "problem", f"name a folder that you may write to with {setting}")
    if free >= 5 * GIB:
        return CheckResult(name, found)
    return CheckResult(name, found, "warning" if free >= GIB else "problem", f"free some space, or name another folder with {setting}")


def temporary_folder(folder: str) -> CheckResult:
    """Whether the paths of Ray's sockets below the temporary folder are short enough."""
    longest = MAX_SOCKET_PATH - RAY_SOCKET_SUFFIX - len("/fedsam-ray-xxxxxxxx/r")
    if len(folder) <= longest:
        return CheckResult("temporary folder", folder)
    return CheckResult(
        "temporary folder", f"{folder} is too long a path for Ray's sockets: /tmp is used", "warning", "set TMPDIR to a short path"
    )


def memory(total: int, free: int, actors: int) -> CheckResult:
    """Whether the actors fit into main memory."""
    found, needed = f"{size(free)} free of {size(total)}", (actors + 1) * ACTOR_BYTES
    if free >= needed:
        return CheckResult("memory", found)
    fits = max(1, free // ACTOR_BYTES - 1)
    verdict: Literal["warning", "problem"] = "warning" if free >= 2 * ACTOR_BYTES else "problem"
    return CheckResult(
        "memory", f"{found}; {actors} actors take about {size(needed)}", verdict, f"close other programs, or -o compute.actors={fits}"
    )


def shared_memory(shm: int | None, total: int) -> CheckResult:
    """Whether Ray's object store, by default 30 % of main memory, fits into /dev/shm."""
    if shm is None:
        return CheckResult("/dev/shm", "not there: Ray keeps its objects on disk", "warning", "expect slower broadcasts")
    if shm >= 0.3 * total:
        return CheckResult("/dev/shm", size(shm))
    fix = f"Ray keeps its objects on disk, which is slow: in a container, start it with --shm-size={int(0.3 * total / GIB) + 1}g"
    return CheckResult("/dev/shm", size(shm), "warning", fix)


def ports(address: str, *, reachable: bool) -> CheckResult:
    """Whether Ray's processes can reach each other at the address of this machine."""
    if reachable:
        return CheckResult("ports", f"{address} reaches itself")
    return CheckResult("ports", f"{address} does not reach itself", "problem", "let the firewall pass what this machine sends to itself")


def data(root: Path, files: Mapping[str, str], downloads: Callable[[], bool]) -> CheckResult:
    """Whether the official files of CIFAR-10 (path below root -> MD5) exist or can be downloaded."""
    try:
        missing = [path for path, md5 in files.items() if not datasets.is_official(root / path, md5, "cifar10")]
    except datasets.DataError as error:
        return CheckResult("CIFAR-10", str(error), "problem", "delete the file, and have it downloaded again")
    if not missing:
        return CheckResult("CIFAR-10", f"{len(files)} official files in {root}")
    if downloads():
        return CheckResult("CIFAR-10", f"not in {root}; will be downloaded there")
    fix = 'set --data-root or FEDSAM_DATA to where cifar-10-batches-py is, or use data.dataset = "digits", which needs no files'
    return CheckResult("CIFAR-10", f"{missing[0]} is not in {root}, and {DOWNLOAD_SERVER[0]} does not answer", "problem", fix)


def ray(start: Callable[[], tuple[str, Resources]]) -> tuple[CheckResult, Resources | None]:
    """Whether Ray starts or can be joined, and its resources; `start` returns the address of the head and the resources."""
    start_time = time.perf_counter()
    try:
        head, resources = start()
    except ConfigError as error:
        return CheckResult("Ray", str(error), "problem", "see `fedsam cluster show readme`"), None
    except Exception as error:  # whatever goes wrong in Ray is the finding
        fix = "see the lines above, and try again with RAY_BACKEND_LOG_LEVEL=info"
        return CheckResult("Ray", f"does not start: {type(error).__name__}: {str(error).partition(chr(10))[0]}", "problem", fix), None
    return CheckResult("Ray", f"answers at {head}; that, and its end, took {time.perf_counter() - start_time:.0f} s"), resources


def placement(actors: int, architecture: str, cpus: int, usable_gpus: int) -> CheckResult:
    """The actors that `fedsam run` starts with the default settings of compute.*."""
    found = f"{actors} actors, each with 1 CPU and 1 torch thread ({cpus} CPUs of {architecture}); the server in the command's process"
    if usable_gpus:
        return CheckResult("would run", f"{found}; no GPU unless compute.gpus_per_actor is set: 0.25 gives {4 * usable_gpus} actors")
    return CheckResult("would run", found)


def placement_on_cluster(actors: int, resources: Resources) -> CheckResult:
    """The actors that `fedsam run --ray-address` starts with the default settings of compute.*."""
    machines = sum(name.startswith("node:") and name != "node:__internal_head__" for name in resources)
    found = f"{actors} actors on {machines} machines with {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs in all"
    if not actors:
        return CheckResult("would run", found, "warning", "-o compute.actors=N asks for machines, if the cluster can grow")
    return CheckResult("would run", f"{found}; the server in the command's process")


def worst_verdict(checks: Sequence[CheckResult]) -> str:
    """The most severe verdict.

    >>> worst_verdict([CheckResult("a", "b"), CheckResult("c", "d", "warning", "mend it")])
    'warning'
    """
    return next((verdict for verdict in ("problem", "warning") if any(check.verdict == verdict for check in checks)), "ok")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cifar10() -> dict[str, str]:
    from torchvision.datasets import CIFAR10

    files = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    return {f"{CIFAR10.base_folder}/{file}": md5 for file, md5 in files}


def _cores() -> int:
    from fedsam.grid.session import cores

    return cores()


def _start_ray(compute: Compute) -> tuple[str, Resources]:
    from experiments.running.actors import session

    with session(compute) as resources:
        import ray

        return str(ray.get_runtime_context().gcs_address), resources


def _fit(resources: Resources, compute: Compute) -> int:
    from experiments.running.actors import actors

    return actors(resources, compute)
