"""The start of a private Ray: its environment, patience on a busy machine; the end of its processes, and what is done where it is lost."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from fedsam.places import cache_folder
from fedsam.wording import ConfigError

PROCESS_END_SECONDS = 2.0  # for a process to end
SLOW_START_SECONDS = 15.0  # after which the user hears that Ray is not up
START_SECONDS = 120.0  # for Ray to be up; Ray itself waits for 30
START_POLL_SECONDS = 0.02  # between questions whether it is
RAYLET_POLLS = 25  # of these questions, after which its raylet is looked for, too
START_ATTEMPTS = 3
DAEMONS = ("raylet", "gcs_server")  # without which Ray ends the process that started it, within a minute and without a word
WATCH_SECONDS = 1.0  # between looks at them

PREFIX = "fedsam-ray-"
OWNER = "owner"  # a file that the owner holds a lock on, which ends with its process, however that ends

WhenLost = Callable[[str, Callable[[], None]], None]  # gets what has ended, and what ends the rest of Ray and removes its files


class RayStartError(ConfigError):
    """A private Ray did not come up; its logs are kept."""


def start_private(over: threading.Event, *, _temp_dir: str, **settings: Any) -> None:
    """`ray.init`, tried again where Ray does not come up, unless it is `over`."""
    import ray

    folders = [f"{_temp_dir}{number or ''}" for number in range(START_ATTEMPTS)]
    for folder in folders:
        try:
            with _patient(over, folder), _without_servers():
                ray.init(_temp_dir=folder, **settings)
            return
        except (ValueError, TypeError):
            raise  # of the arguments
        except Exception as error:
            reason = " ".join(str(error).split())
            if over.is_set():
                raise
        ray.shutdown()
        end_processes(processes(folder))
        if folder != folders[-1]:
            logging.getLogger("fedsam").warning("Ray did not come up (%s); it is started once more", reason)
    raise RayStartError(
        f"compute.grid: 'ray' is not possible here now: Ray did not come up, tried {START_ATTEMPTS} times: {reason}; "
        f"its logs are in {folder}/session_latest/logs; 'inline' runs without Ray"
    )


@contextmanager
def _patient(over: threading.Event, folder: str) -> Iterator[None]:
    """Have Ray wait longer than its 30 seconds for its raylet, and say so, but not for one that has ended.

    On a busy machine a raylet needs long, or ends because its agent is not up within 15 seconds. Ray itself asks for it once a second.
    """
    from ray._private import services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]
    from ray.exceptions import RpcError

    ask: Any = services.get_node
    start = time.monotonic()
    told = False

    def get_node(address: str, node: str) -> Any:
        nonlocal told
        client = GcsClient(address=address)
        for polls in itertools.count(1):
            with contextlib.suppress(RuntimeError, RpcError):
                if any(one.state == GcsNodeInfo.ALIVE for one in client.get_all_node_info().values()):
                    return ask(address, node)
            waited = time.monotonic() - start
            if polls % RAYLET_POLLS == 0 and not _has_raylet(folder):
                raise ChildProcessError("its raylet has ended")
            if waited > START_SECONDS or over.wait(START_POLL_SECONDS):
                raise TimeoutError(f"it was not up in {waited:.0f} s")
            if waited > SLOW_START_SECONDS and not told:
                told = True
                logging.getLogger("fedsam").warning("Ray is not up after %.0f s; at most %.0f s more", waited, START_SECONDS - waited)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = ask


@contextmanager
def _without_servers() -> Iterator[None]:
    """Have Ray start neither its autoscaler nor the server of its dashboard: of one machine and for nobody, each takes seconds of CPU."""
    from ray._private.node import Node

    servers = ("start_monitor", "start_api_server")
    methods = {name: getattr(Node, name) for name in servers}
    for name in servers:
        setattr(Node, name, lambda self, **settings: None)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Node, name, method)


def _has_raylet(folder: str) -> bool:
    """Whether the Ray whose files are in `folder` has a live raylet."""
    for process in processes(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "raylet":
                return True
    return False


def watch(folder: str, over: threading.Event, lost: WhenLost) -> None:
    """Call `lost` if a process ends that Ray cannot do without, unless that is `over`.

    Args:
        folder: Holds Ray's files.
    """

    def clean() -> None:
        rest = processes(folder)
        for process in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(rest, timeout=PROCESS_END_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)

    daemons = {process: process.name() for process in processes(folder) if process.name() in DAEMONS}
    while not over.wait(WATCH_SECONDS):
        for process, name in daemons.items():
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                lost(name, clean)
                return


def processes(folder: str) -> set[psutil.Process]:
    """The processes of the Ray whose files are in `folder`: Ray's programs that have it as an argument, and all their descendants."""
    import ray

    programs, found = str(Path(ray.__file__).parent), set[psutil.Process]()
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if folder not in line or programs not in line:
            continue
        found.add(process)
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(process.children(recursive=True))
    return found - {psutil.Process()}


def end_processes(ended: Iterable[psutil.Process]) -> None:
    """Wait for processes that were asked to end, and kill those that do not."""
    _, late = psutil.wait_procs(ended, timeout=PROCESS_END_SECONDS)
    for process in late:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(late, timeout=PROCESS_END_SECONDS)


@contextmanager
def ray_folder() -> Iterator[str]:
    """A new folder for the length of a block, after those of dead owners are removed. It stays where Ray did not come up, with its logs."""
    # Ray's socket paths add about 64 characters, and a socket path may have 107.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 22 else "/tmp"
    remove_left_over(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    draft = folder / f".{OWNER}"
    with draft.open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        draft.rename(folder / OWNER)  # whoever sees it finds it locked
        try:
            yield str(folder)
        except RayStartError:
            (folder / OWNER).unlink()
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_over(parent: Path) -> None:
    """End the Rays of dead owners whose folders are in `parent`, and remove the folders; those of other users are left alone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is another's, or is being removed
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / OWNER).open("r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it lives
                end_processes(processes(str(folder)))
                shutil.rmtree(folder, ignore_errors=True)


def set_environment(*, private: bool) -> None:
    """Set the variables that ray reads once, when it is imported; a private Ray is one in token mode."""
    if private and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        try:
            token = cache_folder() / "ray-token"
            _make_token(token)
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        except (OSError, ConfigError):  # no folder that can be written, or no hard links there: this command's Ray has its own
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if private:
        os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _make_token(path: Path) -> None:
    """A secret that only this user can read, made once; linking it into place lets simultaneous makers agree on one."""
    if path.exists():
        path.chmod(0o600)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)
