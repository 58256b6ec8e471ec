"""What `fedsam doctor` looks at: every check takes facts and gives what it found, a verdict, and how to mend it."""

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

from experiments.analysis.format import listed, size
from experiments.diagnostics import machine
from experiments.diagnostics.machine import Gpus
from fedsam.config import Compute, ConfigError
from fedsam.data import datasets

GIB = 2**30
ACTOR_MEMORY = GIB  # bytes of an actor that has imported torch and holds a small model
SOCKET_PATH, RAY_SOCKET = 107, 64  # characters: a socket's path may have so many, and Ray adds so many to its folder
DOWNLOADS = ("www.cs.toronto.edu", 443)  # where torchvision gets CIFAR
PYTHONS = (3, 11), (3, 14)
Resources = Mapping[str, float]


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        fix: What to do about a warning or a problem.
    """

    name: str
    found: str
    verdict: Literal["ok", "warning", "problem"] = "ok"
    fix: str = ""


def examine(data_root: Path, runs_dir: Path, compute: Compute) -> Iterable[Check]:
    """All checks of this machine, and of the cluster that `compute` names, the slow ones last."""
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
    yield temporary_folder(tempfile.gettempdir())
    yield memory(total, free, actors)
    yield shared_memory(machine.shared_memory(), total)
    yield ports(machine.address(), reachable=machine.reaches_itself())
    yield data(data_root, _cifar10(), lambda: machine.reachable(*DOWNLOADS))
    found = machine.gpus()
    yield gpus(found)
    started, resources = ray(lambda: _start_ray(compute))
    yield started
    if not compute.ray_address:
        yield placement(actors, *machine.cpus(), found.usable)
    elif resources:
        yield placement_on_cluster(_fit(resources, compute), resources)


def python(version: tuple[int, ...]) -> Check:
    """Whether this Python is one that fedsam supports."""
    found, (low, high) = ".".join(map(str, version)), (".".join(map(str, bound)) for bound in PYTHONS)
    if PYTHONS[0] <= version <= PYTHONS[1]:
        return Check("Python", found)
    return Check("Python", found, "problem", f"install Python {low} to {high} and run `make setup`")


def packages(requirements: Iterable[str], installed: Callable[[str], str | None]) -> Iterable[Check]:
    """Whether the packages that fedsam needs are there, in versions that it works with; a check for each of the three that matter most."""
    needed = [Requirement(text) for text in requirements]
    due = [requirement for requirement in needed if requirement.marker is None or requirement.marker.evaluate({"extra": ""})]
    if not due:
        yield Check("packages", "fedsam is not installed", "problem", "run `make setup`, or `pip install -e .` in the checkout")
    wrong = []
    for requirement in due:
        version = installed(requirement.name)
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        what = f"{requirement.name} {version or 'is not installed'}"
        if not fits:
            wrong.append(f"{requirement.name}{requirement.specifier}")
            yield Check(requirement.name, what, "problem", f"pip install '{requirement.name}{requirement.specifier}'")
        elif requirement.name in ("torch", "flwr", "ray"):
            yield Check(requirement.name, what)
    if due and not wrong:
        yield Check("packages", f"all {len(due)} there, in versions that fit")


def gpus(found: Gpus) -> Check:
    """Whether torch can use the GPUs that there are."""
    if not found.names:
        return Check("GPU", "none" + (f", though there is driver {found.driver}" if found.driver else "") + ": clients run on the CPU")
    what = f"{listed(found.names)}; driver {found.driver}"
    if found.built is None:
        return Check("GPU", f"{what}; torch is a build for CPUs", "problem", "install torch with CUDA: see pytorch.org/get-started")
    what += f"; torch for CUDA {found.built}"
    if found.usable:
        return Check("GPU", what)
    if found.supports and found.supports[0] < int(found.built.partition(".")[0]):
        supported = ".".join(map(str, found.supports))
        fix = f"the driver supports CUDA up to {supported}: update the driver, or install torch for CUDA {found.supports[0]}"
        return Check("GPU", what, "problem", fix)
    return Check(
        "GPU", f"{what}; {found.error}", "problem", "see that no other program holds the GPUs (nvidia-smi) and CUDA_VISIBLE_DEVICES"
    )


def open_files(limit: int) -> Check:
    """Whether a process may have enough files open: Ray has a socket to each of its processes."""
    if limit >= 4096:
        return Check("open files", str(limit))
    return Check("open files", str(limit), "warning" if limit >= 1024 else "problem", "ulimit -n 65536 before fedsam")


def disk(name: str, folder: Path, free: int, setting: str, obstacle: str | None) -> Check:
    """Whether a folder can be written to and there is room; `setting` names another."""
    found = f"{size(free)} free in {folder}"
    if obstacle:
        return Check(name, f"{folder}: {obstacle}", "problem", f"name a folder that you may write to with {setting}")
    if free >= 5 * GIB:
        return Check(name, found)
    return Check(name, found, "warning" if free >= GIB else "problem", f"free some space, or name another folder with {setting}")


def temporary_folder(folder: str) -> Check:
    """Whether Ray's sockets fit below the folder for temporary files."""
    longest = SOCKET_PATH - RAY_SOCKET - len("/fedsam-ray-xxxxxxxx/r")
    if len(folder) <= longest:
        return Check("temporary folder", folder)
    return Check(
        "temporary folder", f"{folder} is too long a path for Ray's sockets: /tmp is used", "warning", "set TMPDIR to a short path"
    )


def memory(total: int, free: int, actors: int) -> Check:
    """Whether the actors fit into the main memory."""
    found, needed = f"{size(free)} free of {size(total)}", (actors + 1) * ACTOR_MEMORY
    if free >= needed:
        return Check("memory", found)
    fits = max(1, free // ACTOR_MEMORY - 1)
    verdict: Literal["warning", "problem"] = "warning" if free >= 2 * ACTOR_MEMORY else "problem"
    return Check(
        "memory", f"{found}; {actors} actors take about {size(needed)}", verdict, f"close other programs, or -o compute.actors={fits}"
    )


def shared_memory(shm: int | None, total: int) -> Check:
    """Whether Ray's object store, by default 30 % of the memory, fits into /dev/shm."""
    if shm is None:
        return Check("/dev/shm", "not there: Ray keeps its objects on disk", "warning", "expect slower broadcasts")
    if shm >= 0.3 * total:
        return Check("/dev/shm", size(shm))
    fix = f"Ray keeps its objects on disk, which is slow: in a container, start it with --shm-size={int(0.3 * total / GIB) + 1}g"
    return Check("/dev/shm", size(shm), "warning", fix)


def ports(address: str, *, reachable: bool) -> Check:
    """Whether Ray's processes can reach each other: they use free ports of this machine's address."""
    if reachable:
        return Check("ports", f"{address} reaches itself")
    return Check("ports", f"{address} does not reach itself", "problem", "let the firewall pass what this machine sends to itself")


def data(root: Path, files: Mapping[str, str], downloads: Callable[[], bool]) -> Check:
    """Whether CIFAR-10's official files (path below root -> MD5) are there, or can be had."""
    try:
        missing = [path for path, md5 in files.items() if not datasets.is_official(root / path, md5, "cifar10")]
    except datasets.DataError as error:
        return Check("CIFAR-10", str(error), "problem", "delete the file, and have it downloaded again")
    if not missing:
        return Check("CIFAR-10", f"{len(files)} official files in {root}")
    if downloads():
        return Check("CIFAR-10", f"not in {root}; will be downloaded there")
    fix = 'set --data-root or FEDSAM_DATA to where cifar-10-batches-py is, or use data.dataset = "digits", which needs no files'
    return Check("CIFAR-10", f"{missing[0]} is not in {root}, and {DOWNLOADS[0]} does not answer", "problem", fix)


def ray(start: Callable[[], tuple[str, Resources]]) -> tuple[Check, Resources | None]:
    """Whether a private Ray starts, or a cluster can be joined, and its resources; `start` gives them and the address of its head."""
    began = time.perf_counter()
    try:
        head, resources = start()
    except ConfigError as error:
        return Check("Ray", str(error), "problem", "see `fedsam cluster show readme`"), None
    except Exception as error:  # whatever goes wrong in Ray is the finding
        fix = "see the lines above, and try again with RAY_BACKEND_LOG_LEVEL=info"
        return Check("Ray", f"does not start: {type(error).__name__}: {str(error).partition(chr(10))[0]}", "problem", fix), None
    return Check("Ray", f"answers at {head}; that, and its end, took {time.perf_counter() - began:.0f} s"), resources


def placement(actors: int, architecture: str, cpus: int, usable_gpus: int) -> Check:
    """What `fedsam run` starts if compute.* is left alone."""
    found = f"{actors} actors, each with 1 CPU and 1 torch thread ({cpus} CPUs of {architecture}); the server in the command's process"
    if usable_gpus:
        return Check("would run", f"{found}; no GPU unless compute.gpus_per_actor is set: 0.25 gives {4 * usable_gpus} actors")
    return Check("would run", found)


def placement_on_cluster(actors: int, resources: Resources) -> Check:
    """What `fedsam run --ray-address` starts if compute.* is left alone."""
    machines = sum(name.startswith("node:") and name != "node:__internal_head__" for name in resources)
    found = f"{actors} actors on {machines} machines with {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs in all"
    if not actors:
        return Check("would run", found, "warning", "-o compute.actors=N asks for machines, if the cluster can grow")
    return Check("would run", f"{found}; the server in the command's process")


def worst(checks: Sequence[Check]) -> str:
    """The gravest verdict.

    >>> worst([Check("a", "b"), Check("c", "d", "warning", "mend it")])
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
