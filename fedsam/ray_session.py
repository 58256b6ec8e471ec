"""Ray for the time of a block: a private one that is started and stopped, or one that runs already."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsam.config import ConfigError


@contextmanager
def ray_session(
    address: str | None = None, *, cpus: int | None = None, gpus: int | None = None, store: int | None = None
) -> Iterator[Mapping[str, float]]:
    """Ray for the time of a block; gives its resources (`CPU`, `GPU`).

    Without an address a private Ray is started and stopped: no dashboard, own temporary folder and namespace. Ray listens on all
    interfaces whatever address it is given, so token authentication keeps others out; the token file is readable by its owner only.

    Args:
        store: Bytes of a private Ray's object store, beyond which objects go to disk; default: Ray's, 30 % of the memory.

    Raises:
        ConfigError: There is no Ray at `address`, or it refuses this process.
    """
    ray = import_ray(private=address is None)
    quiet = {"namespace": "fedsam", "logging_level": "error"}
    if address is not None:
        try:
            with _own_signals():
                ray.init(address=address, **quiet)
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            reason = "no Ray answers there, or it wants its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)"
            raise ConfigError(f"compute.ray_address: {address!r} is not allowed: {reason}: {str(error).splitlines()[0]}") from None
        try:
            yield ray.cluster_resources()
        finally:
            ray.shutdown()
        return
    # Ray's socket paths add about 64 characters, and a socket path may have 107.
    folder = tempfile.mkdtemp(prefix="fedsam-ray-", dir=None if len(tempfile.gettempdir()) < 22 else "/tmp")
    private: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": store, "include_dashboard": False}
    # Ray deletes a spill file once all objects in it are gone: one object a file, or former client states stay on disk with present ones.
    # It opens the folder that it is given to everybody, so it gets one inside ours, which only this user can enter.
    private |= {"_temp_dir": f"{folder}/r", "_system_config": {"max_fused_object_count": 1}}
    try:
        with _own_signals():
            ray.init(**private, **quiet)
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's SIGTERM handler, which Ray replaces by one that exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def import_ray(*, private: bool) -> Any:
    """The module ray, for a private Ray in token mode; it reads these variables once, when it is imported.

    Raises:
        RuntimeError: It was imported before, without authentication.
    """
    token = Path.home() / ".cache" / "fedsam" / "ray-token"
    if private and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        _make_token(token)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    if private:
        os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    if private and not is_token_auth_enabled():
        raise RuntimeError(
            "ray was imported without authentication: set RAY_AUTH_MODE=token before, or import ray after fedsam's first run"
        )
    return ray


def _make_token(path: Path) -> None:
    """A secret that only this user can read, made once; linking it into place lets simultaneous makers agree on one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    os.unlink(draft)


def cores() -> int:
    """Physical cores that this process may use."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in usable:
        file = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(file.read_text() if file.exists() else str(cpu))
    return len(siblings)
