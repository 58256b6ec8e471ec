"""A Ray cluster that fedsam did not start: whether it keeps strangers out, and whether its nodes have what this process has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fedsam.config import ConfigError

PACKAGES = ("ray", "flwr", "fedsam")
ASK = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def check_guarded(address: str) -> None:
    """Make sure that the Ray whose head listens at HOST:PORT refuses who brings no token.

    Raises:
        ConfigError: It does not.
    """
    if not guarded(address):
        raise ConfigError(
            f"compute.ray_address: {address!r} is not allowed: this Ray asks for no token, so whoever reaches it can run code on it. "
            "Start it with RAY_AUTH_MODE=token, or pass --allow-unauthenticated-cluster if nobody else can reach it"
        )


def guarded(address: str, timeout: float = 10.0) -> bool:
    """Whether the head at HOST:PORT refuses a call without a token; with Ray's TLS it refuses whoever has no certificate."""
    import grpc

    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return True
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(ASK)(b"", timeout=timeout)
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def check_nodes() -> None:
    """Make sure that all nodes of the cluster this process has joined run its versions of Python, Ray, Flower and fedsam.

    Raises:
        ConfigError: A node does not; all differences are named.
    """
    if different := differences(_reported(), _versions()):
        raise ConfigError(
            f"compute.ray_address: the cluster's nodes must have what this process has: {'; '.join(different)}. "
            "Install the same there: see `fedsam cluster list`"
        )


def differences(nodes: Mapping[str, Mapping[str, str]], here: Mapping[str, str]) -> list[str]:
    """What the versions of nodes (by address) have other than `here`.

    >>> differences({"10.0.0.2": {"ray": "2.50"}}, {"ray": "2.55"})
    ['10.0.0.2 has ray 2.50, not 2.55']
    """
    return [
        f"{node} has {name} {there.get(name, 'not installed')}, not {version}"
        for node, there in sorted(nodes.items())
        for name, version in here.items()
        if there.get(name) != version
    ]


def _reported() -> dict[str, dict[str, str]]:
    """The versions of every live node, by its address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    # A function of this module would travel by name, which a node without fedsam could not look up.
    report = ray.remote(num_cpus=0)(_by_value(PACKAGES))
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    asked = {f"{address} ({key[:6]})": report.options(scheduling_strategy=On(key, soft=False)).remote() for key, address in alive.items()}
    return {node: ray.get(reference) for node, reference in asked.items()}


def _versions() -> dict[str, str]:
    found: dict[str, str] = _by_value(PACKAGES)()
    return found


def _by_value(packages: tuple[str, ...]) -> Any:
    def versions() -> dict[str, str]:
        import importlib.metadata
        import importlib.util
        import platform

        found = {"Python": platform.python_version()}
        for name in packages:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "from its source" if importlib.util.find_spec(name) else "not installed"
        return found

    return versions
