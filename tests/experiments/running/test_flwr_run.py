"""Apps on Flower's own runtime, started and stopped as its documentation says, give the numbers that they give on our grids."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments import run
from experiments.cli.commands.run_config import run_config
from fedsam.results.store import Results
from tests.experiments.running.test_server_app import experiment
from tests.support.processes import HANG, alive, descendants
from tests.support.shared_ray import SharedRay

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).resolve().parents[3]
APPS = ROOT / "tests" / "apps"
BIN = Path(sys.executable).parent
SUPERLINK = ["flower-superlink", "--insecure", "--simulation", "--disable-runtime-dependency-installation", "--host", "127.0.0.1"]

FlwrRun = Callable[[Path, Path, int], None]


@pytest.fixture(scope="module")
def flwr_run(tmp_path_factory: pytest.TempPathFactory, shared_ray: SharedRay) -> Iterator[FlwrRun]:
    """Runs (app, file of the run config, number of nodes) on a SuperLink of its own; at the end none of its processes is left."""
    shared_ray.stop()  # what is compared has its own
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "config.toml").write_text(f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "OMP_NUM_THREADS": "1",  # as in our actors; to a client that has all cores Ray gives as many threads, which round otherwise
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    # The bundle that Flower makes of the app must be all that is needed.
    for name in ("PYTHONPATH", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    with (
        (home / "log").open("w") as log,
        subprocess.Popen([*SUPERLINK, "--port", str(port)], cwd=home, env=environment, stdout=log, stderr=log) as superlink,
    ):
        started: set[int] = set()
        runs = list[Path]()
        try:
            await_port(port)

            def run_app(app: Path, config: Path, nodes: int) -> None:
                # One client at a time: Flower may run two messages to one client at once, of which one loses its state.
                federation = f"num-supernodes={nodes} client-resources-num-cpus={os.cpu_count()}"
                command = ["flwr", "run", app, "own", "--run-config", config, "--federation-config", federation, "--stream"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG, check=False)
                started.update(descendants(superlink.pid))
                listed = subprocess.run(
                    ["flwr", "list", "own", "--format", "json"], env=environment, capture_output=True, text=True, check=True
                )
                runs.append(app)
                assert listed.stdout.count("finished:completed") == len(runs), done.stdout + done.stderr

            yield run_app
        finally:
            superlink.send_signal(signal.SIGINT)
            superlink.wait(HANG)
    assert not [pid for pid in started if alive(pid)]


def await_port(port: int) -> None:
    for _ in range(600):
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.2)
    raise TimeoutError("the SuperLink does not answer")


def fedsam_flower(app: Path, config: Path, nodes: int, grid: str) -> None:
    """The same on one of our grids."""
    command = [sys.executable, "-m", "experiments.cli.main", "flower", app, "--run-config", config, "--num-supernodes", str(nodes)]
    subprocess.run([*command, "--grid", grid], capture_output=True, text=True, timeout=HANG, check=True)


def on_both(flwr_run: FlwrRun, name: str, folder: Path, nodes: int, grid: str = "ray") -> tuple[Path, Path]:
    """The folders that an app has written to on Flower's runtime, and on ours."""
    app = folder / name
    shutil.copytree(APPS / name, app, ignore=shutil.ignore_patterns("__pycache__"))
    outputs = folder / "theirs", folder / "ours"
    for output, start in zip(outputs, (flwr_run, partial(fedsam_flower, grid=grid)), strict=True):
        output.mkdir()
        config = output.with_suffix(".toml")
        config.write_text(f"output = '{output}'\n")
        start(app, config, nodes)
    return outputs


def test_the_quickstart_app_gives_the_same_numbers(flwr_run: FlwrRun, tmp_path: Path) -> None:
    theirs, ours = on_both(flwr_run, "quickstart", tmp_path, 4)
    assert json.loads((theirs / "metrics.json").read_text()) == json.loads((ours / "metrics.json").read_text())
    with np.load(theirs / "model.npz") as a, np.load(ours / "model.npz") as b:
        assert {name: a[name].tobytes() for name in a} == {name: b[name].tobytes() for name in b}


def test_what_an_app_can_ask_of_flower_is_the_same(flwr_run: FlwrRun, tmp_path: Path) -> None:
    theirs, ours = on_both(flwr_run, "features", tmp_path, 3)
    assert json.loads((theirs / "said.json").read_text()) == json.loads((ours / "said.json").read_text())
    assert (theirs / "closed").exists() and (ours / "closed").exists()


@pytest.mark.parametrize(("name", "nodes"), [("vertical", 2), ("secagg", 4), ("plain", 4), ("survival", 4)])
def test_the_shapes_of_flowers_examples_give_the_same_numbers(flwr_run: FlwrRun, name: str, nodes: int, tmp_path: Path) -> None:
    theirs, ours = (json.loads((folder / "result.json").read_text()) for folder in on_both(flwr_run, name, tmp_path, nodes, grid="inline"))
    if name == "secagg":  # Flower averages as many copies of the model as there are clients, in the order in which these answered
        np.testing.assert_allclose(theirs.pop("models"), ours.pop("models"), rtol=1e-12)
    assert theirs == ours


def test_our_app_gives_the_same_numbers(flwr_run: FlwrRun, tmp_path: Path) -> None:
    settings = {"client__optimizer": {"name": "sam", "lr": 0.05}, "compute": {"grid": "ray", "actors": 2}}
    (tmp_path / "run.toml").write_text(run_config(experiment(tmp_path / "theirs", **settings)))
    flwr_run(ROOT, tmp_path / "run.toml", 8)
    ours = run(experiment(tmp_path / "ours", **settings))
    with Results.open(tmp_path / "theirs", create=False) as results:
        (theirs,) = results.runs()
        rows = results.rounds(theirs.id)
    assert [row.measures for row in rows] == [row.measures for row in ours.rows]
    names = tmp_path / "theirs" / theirs.id, tmp_path / "ours" / ours.run_id
    assert (names[0] / "model.safetensors").read_bytes() == (names[1] / "model.safetensors").read_bytes()
