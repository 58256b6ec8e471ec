"""Ray and its actors, as settings ask for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.clientapp import ClientApp

from fedsam.cluster import check_guarded, check_nodes
from fedsam.config import Compute, ConfigError
from fedsam.pool import ActorPool
from fedsam.ray_session import cores, ray_session


@contextmanager
def actor_pool(compute: Compute, load: Callable[..., ClientApp]) -> Iterator[ActorPool]:
    """Actors that serve with the ClientApp that `load` gives; they and a private Ray end with the block.

    Raises:
        ConfigError: There is no Ray at the address, or strangers can use it, or its nodes have other versions, or an actor is to have
            more than there is.
    """
    address, gpus = compute.ray_address, compute.gpus_per_actor
    with ray_session(address, cpus=None if address else max(cores(), (compute.actors or 1) * compute.cpus_per_actor)) as resources:
        if address:
            _check(compute)
        fit = int(resources.get("GPU", 0) / gpus) if gpus else int(resources["CPU"] // compute.cpus_per_actor)
        if fit < 1:
            raise ConfigError(f"compute.{'gpus' if gpus else 'cpus'}_per_actor: more than there is; Ray has {dict(resources)}")
        yield ActorPool(load, actors=compute.actors or fit, cpus=compute.cpus_per_actor, gpus=gpus, memory=compute.memory_fraction)


def _check(compute: Compute) -> None:
    import ray

    if not compute.allow_unauthenticated_cluster:
        check_guarded(ray.get_runtime_context().gcs_address)
    check_nodes()
