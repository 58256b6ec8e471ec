"""Who can reach a Ray that fedsam starts, and a Ray that it joins: every listening socket asks for the token."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import psutil
import pytest

from experiments.running import actors
from fedsam.config import Compute, ConfigError
from fedsam.grid import cluster
from fedsam.grid.session import ray_session
from tests.support.processes import HANG, descendants
from tests.support.shared_ray import SharedRay

METHODS = (
    "NodeInfoGcsService/CheckAlive",
    "JobInfoGcsService/AddJob",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/PushTask",
)
OPEN = """
import ray, sys
ray.init(num_cpus=1, include_dashboard=False, _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""


@pytest.fixture(scope="module")
def head(shared_ray: SharedRay) -> Iterator[str]:
    """Address of the head of a private Ray with an actor."""
    with shared_ray.pool(1) as pool:
        import ray

        pool.ready()
        yield str(ray.get_runtime_context().gcs_address)


def listening(pids: set[int]) -> dict[int, str]:
    """TCP ports that processes listen on, and the processes' names."""
    sockets: dict[str, str] = {}
    for pid in pids:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))
            except OSError:  # closed meanwhile
                continue
            if found:
                sockets[found[1]] = name
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {int(line[1].rpartition(":")[2], 16): sockets[line[9]] for line in lines if line[3] == "0A" and line[9] in sockets}


def answers(host: str, port: int) -> set[str]:
    """What a port says to calls without a token: gRPC statuses, or the status of an HTTP server."""
    said = set()
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for method in METHODS:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=HANG)
            except grpc.RpcError as error:
                said.add(error.code().name)
            else:
                said.add("OK")
    if said != {"UNAVAILABLE"}:
        return said
    try:
        request = urllib.request.Request(f"http://{host}:{port}/get_or_create_runtime_env", data=b"")
        with urllib.request.urlopen(request, timeout=HANG) as reply:
            return {str(reply.status)}
    except urllib.error.HTTPError as error:
        error.close()
        return {str(error.code)}


def said(code: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What a process that runs `code` says."""
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANG, check=False)


def tokenless(home: Path, mode: str = "") -> dict[str, str]:
    """This process's environment without what it knows of tokens."""
    rest = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return rest | {"HOME": str(home)} | ({"RAY_AUTH_MODE": mode} if mode else {})


def test_every_listening_socket_refuses_who_has_no_token(head: str) -> None:
    ports = listening({os.getpid(), *descendants(os.getpid())})
    assert {"gcs_server", "raylet"} <= set(ports.values())
    assert len(ports) >= 6  # the head, three of the node, this process, the actor
    commands = [" ".join(psutil.Process(pid).cmdline()) for pid in descendants(os.getpid())]
    assert not [line for line in commands if "dashboard/dashboard.py" in line or "autoscaler/_private/monitor.py" in line]
    got = {f"{name}:{port}": answers(head.partition(":")[0], port) for port, name in ports.items()}
    assert not {where: what for where, what in got.items() if not what <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "401"}}
    assert not {where: what for where, what in got.items() if not what & {"UNAUTHENTICATED", "401"}}


@pytest.mark.parametrize("mode", ["", pytest.param("token", marks=pytest.mark.slow)])
def test_a_command_without_the_token_cannot_join(head: str, tmp_path: Path, mode: str) -> None:
    assert cluster.guarded(head)
    done = said(f"from fedsam.grid.session import ray_session; ray_session({head!r}).__enter__()", tokenless(tmp_path, mode))
    assert f"ConfigError: compute.ray_address: {head!r} is not allowed: this command cannot join it" in done.stderr


@pytest.mark.slow
def test_another_driver_without_the_token_cannot_join(head: str, tmp_path: Path) -> None:
    done = said(f"import ray; ray.init(address={head!r}); print('in')", tokenless(tmp_path))
    assert done.returncode and "in" not in done.stdout.split()
    assert "token" in done.stderr.lower()


def test_another_token_is_refused(head: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    code = f"import ray; from ray._raylet import GcsClient; GcsClient(address={head!r}); print('in')"
    stranger, friend = said(code, os.environ | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}), said(code, os.environ)
    assert "in" not in stranger.stdout.split()
    assert "token" in stranger.stderr.lower()
    assert "in" in friend.stdout.split(), friend.stderr


def test_a_private_ray_is_its_commands_alone(head: str) -> None:
    for address in (head, "auto"):
        ours = f"from fedsam.grid.session import ray_session; ray_session({address!r}).__enter__()"
        done = said(ours, os.environ)
        assert f"ConfigError: compute.ray_address: {address!r} is not allowed" in done.stderr
        assert "belongs to another fedsam command" in done.stderr or address == "auto"  # which may find another Ray of this machine


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("nonsense", "it is `auto` or HOST:PORT, 10.0.0.1:6379 say"),
        ("localhost:http", "it is `auto` or HOST:PORT"),
        ("127.0.0.1:1", "no Ray answers there: .* refused"),
        ("127.0.0.1:123456", "no Ray answers there"),
        ("no.such.host.invalid:6379", "no Ray answers there"),
    ],
)
def test_an_address_without_ray_is_refused_at_once(address: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"compute.ray_address: '{address}' is not allowed: {problem}"), ray_session(address):
        pass


@pytest.mark.slow
def test_ray_address_in_the_environment_leaves_private_rays_alone() -> None:
    code = "from fedsam.grid.session import ray_session\nwith ray_session(cpus=1) as resources: print('fedsam-private' in resources)"
    assert said(code, os.environ | {"RAY_ADDRESS": "127.0.0.1:1"}).stdout.split() == ["True"]


def test_the_token_and_the_folder_are_this_users_alone(head: str) -> None:
    assert stat.S_IMODE(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).stat().st_mode) == 0o600
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert stat.S_IMODE(session.parent.parent.stat().st_mode) == 0o700  # Ray opens the folder that it is given to everybody
    assert not ray._private.worker._global_node.webui_url  # no dashboard


@pytest.fixture
def open_ray() -> Iterator[str]:
    """Address of a Ray that asks for no token."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with (
        tempfile.TemporaryDirectory(prefix="t", dir="/tmp", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [sys.executable, "-c", OPEN, folder], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        yield next(line for line in process.stdout if ":" in line).strip()
        process.communicate("\n", timeout=HANG)


def test_a_ray_without_tokens_is_not_joined_unless_so_said(open_ray: str) -> None:
    command = [sys.executable, "-m", "experiments.cli.main", "flower", "tests/apps/features", "-n", "3", "--ray-address", open_ray]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 2, done.stderr
    assert f"compute.ray_address: '{open_ray}' is not allowed: this Ray asks for no token" in done.stderr
    assert "--allow-unauthenticated-cluster" in done.stderr


def test_saying_so_leaves_out_that_check_only(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(actors, "check_guarded", asked.append)
    actors._check(Compute(ray_address=head, allow_unauthenticated_cluster=True))
    assert asked == []
    actors._check(Compute(ray_address=head))
    assert asked == [head]
    monkeypatch.setattr(cluster, "_versions", lambda: {"Python": "2.7", "fedsam": "0.0.1"})
    with pytest.raises(
        ConfigError, match=r"the cluster's nodes must have what this process has: .* has Python 3\.\d+\.\d+, not 2\.7; .* not 0\.0\.1"
    ):
        actors._check(Compute(ray_address=head))
