"""Ray and its actors, as the settings say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flwr.clientapp import ClientApp

from fedsam.config import Compute, ConfigError
from fedsam.grid.cluster import check_guarded, check_nodes
from fedsam.grid.pool import ActorPool
from fedsam.grid.ray_start import WhenLost
from fedsam.grid.session import PRIVATE, cores, private_cpus, private_ray, ray_session


def check_cpus(compute: Compute) -> None:
    """Raise `ConfigError` where an actor is to have more CPUs, and so threads, than this machine, unless others may have more."""
    here = os.cpu_count() or 1
    if compute.cpus_per_actor > here and not compute.ray_address:
        raise ConfigError(f"compute.cpus_per_actor: {compute.cpus_per_actor} is not allowed: this machine has {here} CPUs")


def check_gpus(compute: Compute) -> None:
    """Raise `ConfigError` where an actor is to have more GPUs than this machine, unless others may have more."""
    if compute.gpus_per_actor and not compute.ray_address:
        import torch

        here = torch.cuda.device_count()
        if compute.gpus_per_actor > here:
            raise ConfigError(f"compute.gpus_per_actor: {compute.gpus_per_actor:g} is not allowed: torch finds {here} GPUs here")


@contextmanager
def session(compute: Compute, lost: WhenLost | None = None) -> Iterator[Mapping[str, float]]:
    """Ray, for the length of a block; gives its resources.

    Args:
        lost: As of `ray_session`.

    Raises:
        ConfigError: There is no Ray at the address, or strangers can use it, or its nodes have other versions.
    """
    address = compute.ray_address
    with ray_session(address, cpus=None if address else private_cpus(compute), lost=lost) as resources:
        if address:
            _check(compute)
        yield resources


@contextmanager
def actor_pool(
    compute: Compute, load: Callable[..., ClientApp], lost: WhenLost | None = None, *, beside: bool = False
) -> Iterator[ActorPool]:
    """Actors that serve with the ClientApp that `load` gives; they and a private Ray end with the block.

    Args:
        lost: As of `ray_session`.
        beside: A private Ray without GPUs may start beside the block, and then at first as many actors as leave this process a core.

    Raises:
        ConfigError: As for `session` and `check_cpus`, or an actor is to have more than there is.
    """
    check_cpus(compute)
    if beside:
        cpus, each = private_cpus(compute), compute.cpus_per_actor
        with private_ray(cpus=cpus, lost=lost) as start:
            yield ActorPool(load, actors=compute.actors or cpus // each, cpus=each, ray_start=start, first=max(1, cores() - 1))
        return
    with session(compute, lost) as resources:
        fit = actors(resources, compute)
        if fit < 1 and not (compute.ray_address and compute.actors):  # a cluster may grow for actors that are asked for
            raise ConfigError(
                f"compute: no actor of compute.cpus_per_actor {compute.cpus_per_actor} and compute.gpus_per_actor "
                f"{compute.gpus_per_actor:g} fits; Ray has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
            )
        pool = ActorPool(
            load,
            actors=compute.actors or fit,
            cpus=compute.cpus_per_actor,
            gpus=compute.gpus_per_actor,
            memory=compute.memory_fraction,
        )
        try:
            yield pool
        finally:
            if compute.ray_address is None and PRIVATE not in resources and not pool.stopped:  # a Ray that goes on
                pool.stop()


def actors(resources: Mapping[str, float], compute: Compute) -> int:
    """How many actors fit: no actor has parts of two GPUs.

    >>> actors({"CPU": 16, "GPU": 2}, Compute(gpus_per_actor=0.4))
    4
    """
    gpus, fit = compute.gpus_per_actor, int(resources.get("CPU", 0) // compute.cpus_per_actor)
    if not gpus:
        return fit
    whole = int(resources.get("GPU", 0))
    return min(fit, whole * int(1 / gpus + 1e-9) if gpus <= 1 else int(whole // gpus))


def _check(compute: Compute) -> None:
    import ray

    if not compute.allow_unauthenticated_cluster:
        check_guarded(ray.get_runtime_context().gcs_address)
    check_nodes()
