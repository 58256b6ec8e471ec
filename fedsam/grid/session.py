"""Ray for the length of a block: a private one that is started and stopped, or one that runs already."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

from fedsam.config import Compute, ConfigError
from fedsam.grid.ray_start import WhenLost, end_processes, processes, ray_folder, set_environment, start_private, watch
from fedsam.imports import ROOT

PRIVATE = "fedsam-private"  # a resource that tells a private Ray from others
RAY_ANSWER_SECONDS = 10.0  # for Ray to answer
POLL_SECONDS = 0.05  # between looks at whether Ray is up
ONE_RAY = threading.Lock()  # held by whoever has connected this process, which can have one connection, to a Ray


@contextmanager
def ray_session(
    address: str | None = None,
    *,
    cpus: int | None = None,
    gpus: int | None = None,
    store: int | None = None,
    lost: WhenLost | None = None,
) -> Iterator[Mapping[str, float]]:
    """Ray for the length of a block; gives its resources (`CPU`, `GPU`).

    Where this process has Ray already, as in a notebook that called `ray.init`, that is used and left as it is. Otherwise, without an
    address, a private Ray is started and stopped: no dashboard, own temporary folder and namespace. Ray listens on all
    interfaces whatever address it is given, so token authentication keeps others out; the token file is readable by its owner only.

    Args:
        address: `auto` or HOST:PORT of a Ray that runs on this machine too.
        store: Bytes of a private Ray's object store, beyond which objects go to disk; default: Ray's, 30 % of the memory.
        lost: What is to be done where a private Ray is lost.

    Raises:
        ConfigError: There is no Ray at `address`, or it refuses this process, or it is another command's or run's private one, or ray was
            imported without authentication, or another run of this process has Ray.
        RayStartError: A private Ray did not come up, tried several times.
    """
    if (resources_here := _resources_here(address)) is not None:
        yield resources_here
    elif address is not None:
        with _running_cluster(address) as resources:
            yield resources
    else:
        with private_ray(cpus=cpus, gpus=gpus, store=store, lost=lost) as start:
            start.is_up(wait=True)
            yield sys.modules["ray"].cluster_resources()


@contextmanager
def private_ray(
    *, cpus: int | None = None, gpus: int | None = None, store: int | None = None, lost: WhenLost | None = None
) -> Iterator[RayStart]:
    """A private Ray that starts beside the block, and is stopped after it. Arguments and errors are those of `ray_session`.

    An error of the start is raised where it is asked whether Ray is up, and once more after a block that went on all the same.
    """
    import_ray(private=True)
    over, left = threading.Event(), set[psutil.Process]()
    with _only_one(), ray_folder() as folder:
        private: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": store, "resources": {PRIVATE: 1}}
        # Ray deletes a spill file once all objects in it are gone: one object a file, or former client states stay on disk with others.
        # It opens the folder that it is given to everybody, so it gets one inside ours, which only this user can enter.
        # By default Ray gives workers a low priority: they wait for whatever else is at work on the machine.
        # Its raylet finds its object store not ready at first, and by default waits a second before it tries again.
        connect = {"raylet_client_connect_timeout_milliseconds": 20, "raylet_client_num_connect_attempts": 500}
        system = {"max_fused_object_count": 1, "worker_niceness": 0, **connect}
        private |= {"include_dashboard": False, "_temp_dir": f"{folder}/r", "_system_config": system}
        try:
            with _running_ray("local", **private) as start:  # "local", or RAY_ADDRESS in the environment makes it join another
                if lost is not None:
                    start.then(threading.Thread(target=watch, args=(folder, over, lost), daemon=True).start)
                try:
                    yield start
                finally:
                    over.set()
                    left = processes(folder)
            start.check()
        finally:
            end_processes(left | processes(folder))


@contextmanager
def _only_one() -> Iterator[None]:
    """Hold `ONE_RAY` for the length of a block: a second `ray.init` would take the connection from the first."""
    if not ONE_RAY.acquire(blocking=False):
        raise ConfigError(
            "compute.grid: 'ray' is not possible here now: another run of this process has Ray, of which a process has one; "
            "start this one when that has ended, or as a process of its own; 'inline' runs without Ray"
        )
    try:
        yield
    finally:
        ONE_RAY.release()


class RayStart:
    """A Ray that starts in another thread.

    Its C++ part handles SIGTERM by an exit that leaves processes behind. That is replaced by what was there before, whenever the main
    thread asks whether it is up.
    """

    def __init__(self) -> None:
        self.future = Future[None]()
        self._then: Callable[[], object] | None = None
        self._handler = signal.getsignal(signal.SIGTERM)
        self._up, self._failed = False, False

    def then(self, function: Callable[[], object]) -> None:
        """Have a function called by the thread that finds Ray up."""
        self._then = function

    def is_up(self, *, wait: bool = False) -> bool:
        """Whether Ray is up, for which this waits if it is to. Raises what keeps it from that."""
        while not self._up:
            done = self.future in futures.wait([self.future], POLL_SECONDS if wait else 0).done
            self.restore_handler()
            if done:
                self._failed = self.future.exception() is not None
                self.future.result()
                self._up = True
                if self._then is not None:
                    self._then()
            elif not wait:
                return False
        return True

    def restore_handler(self) -> None:
        """Take back Ray's handling of SIGTERM, until Ray is found up: what is set later stays. Only the main thread can."""
        if not self._up and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)

    def check(self) -> None:
        """Raise again what `is_up` has raised."""
        if self._failed:
            self.future.result()


def private_cpus(compute: Compute) -> int:
    """The CPUs of a private Ray for these actors."""
    return max(cores(), (compute.actors or 1) * compute.cpus_per_actor)


def is_ray_here() -> bool:
    """Whether this process has a Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _resources_here(address: str | None) -> Mapping[str, float] | None:
    """The resources of the Ray that this process has, if it has one that is not private. Raises `ConfigError` where another is wanted."""
    if not is_ray_here():
        return None
    ray: Any = sys.modules["ray"]
    resources: Mapping[str, float] = ray.cluster_resources()
    if PRIVATE in resources:
        return None
    own = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", own):
        raise ConfigError(
            f"compute.ray_address: {address!r} is not allowed: this process is at the Ray of {own}; call ray.shutdown() first"
        )
    return resources


@contextmanager
def _running_cluster(address: str) -> Iterator[Mapping[str, float]]:
    """As `ray_session`, for a Ray that runs already."""
    ray = import_ray(private=False)
    refused = f"compute.ray_address: {address!r} is not allowed"
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal()):
            raise ConfigError(f"{refused}: it is `auto` or HOST:PORT, 10.0.0.1:6379 say")
        try:
            socket.create_connection((host.strip("[]"), int(port)), RAY_ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{refused}: no Ray answers there: {error}") from None
    with _only_one(), ExitStack() as stack:
        try:
            stack.enter_context(_running_ray(address)).is_up(wait=True)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            reason = "this command cannot join it; it runs on a machine of the cluster, with the cluster's token (RAY_AUTH_MODE=token)"
            raise ConfigError(f"{refused}: {reason}: {' '.join(str(error).split())}") from None
        resources = ray.cluster_resources()
        if PRIVATE in resources:
            raise ConfigError(f"{refused}: the Ray there belongs to another fedsam command and ends with it; give HOST:PORT of the cluster")
        yield resources


@contextmanager
def _running_ray(address: str, **settings: Any) -> Iterator[RayStart]:
    """`ray.init` beside the block, and `ray.shutdown` after it.

    In a thread of its own Ray sets no Python handlers of signals. The thread has to last, as the kernel kills Ray's processes when the
    thread that started them ends. A block that ends during start-up waits until Ray is up, or for `RAY_ANSWER_SECONDS`.
    """
    import ray

    start, over = RayStart(), threading.Event()

    def keep_ray() -> None:
        common = {"namespace": "fedsam", "logging_level": logging.ERROR, "job_config": _job_config(), **settings}
        try:
            if "_temp_dir" in settings:
                start_private(over, address=address, **common)
            else:
                ray.init(address=address, **common)
        except BaseException as error:
            start.future.set_exception(error)
        else:
            start.future.set_result(None)
            over.wait()

    threading.Thread(target=keep_ray, daemon=True).start()
    try:
        yield start
    except KeyboardInterrupt:
        signal.alarm(0)  # Ray's C++ part, if it saw the signal first, would abort this process 3 seconds later
        if not start.future.done():
            threading.excepthook = lambda _: None  # threads of Ray, which its end surprises, would print tracebacks
        raise
    finally:
        try:
            # What is up can be ended in order; but it never comes up if Ray's processes were signalled too.
            if not futures.wait([start.future], RAY_ANSWER_SECONDS).done:
                over.set()
            start.restore_handler()
        finally:
            try:
                ray.shutdown()
            finally:
                over.set()


def _job_config() -> Any:
    """Ray's settings of a job, with which workers look for modules in `imports.ROOT` first of all: our packages are ours there, too."""
    from ray.job_config import JobConfig

    class OwnFirst(JobConfig):
        def _serialize(self) -> str:
            # Workers put each of this list in front of those before it; the script's folder and the working directory are in it by now.
            self._py_driver_sys_path.append(str(ROOT))
            serialized: str = super()._serialize()
            return serialized

    return OwnFirst()


def import_ray(*, private: bool) -> Any:
    """The module ray, for a private Ray in token mode.

    Raises:
        ConfigError: It was imported before, without authentication, which it reads once.
    """
    set_environment(private=private)
    import ray
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    if private and not is_token_auth_enabled():
        raise ConfigError(
            "compute.grid: 'ray' is not allowed here: ray was imported before, without authentication; call ray.init() and fedsam uses "
            'that Ray, or set RAY_AUTH_MODE=token in the environment and start again, or set compute.grid to "inline"'
        )
    return ray


def cores() -> int:
    """Physical cores that this process may use; a container's share of CPU time counts."""
    from joblib import cpu_count

    return int(cpu_count(only_physical_cores=True))
