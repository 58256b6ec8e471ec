"""Flower apps on our grids: the same on Ray actors as in this process, and what an app can ask of Flower."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from numpy.typing import NDArray
from rich.console import Console
from sklearn.datasets import load_diabetes

from experiments.callbacks.app_progress import AppProgress
from experiments.cli import main
from experiments.cli.commands.run_config import run_config
from experiments.running import actors, flower_apps
from fedsam.config import Compute, ConfigError
from fedsam.grid.flower_app import FlowerApp
from fedsam.grid.pool import ActorPool
from fedsam.grid.ray_grid import RayGrid
from fedsam.imports import PACKAGES
from fedsam.messages.flower_private import random_run
from tests.experiments.running.test_server_app import experiment
from tests.support.shared_ray import SharedRay

ROOT = Path(__file__).resolve().parents[3]
APPS = ROOT / "tests" / "apps"
INLINE = Compute(grid="inline")


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an app adds to how modules are found is gone after a test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] in PACKAGES:
            del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(scope="module")
def pool(shared_ray: SharedRay) -> Iterator[ActorPool]:
    """Two actors of these tests alone, as an app's modules stay imported, that serve with the app they are supplied with."""
    shared_ray.start()
    pool = ActorPool(lambda app: app.load_client(), actors=2)
    yield pool
    pool.stop()


def inline(name: str, folder: Path, nodes: int) -> Path:
    """The folder that an app, run in this process, has written to."""
    folder.mkdir()
    flower_apps.run(FlowerApp.read(APPS / name, [f"output='{folder}'"]), INLINE, nodes)
    return folder


def on_ray(pool: ActorPool, name: str, folder: Path, nodes: int) -> Path:
    """The folder that an app, run on actors, has written to."""
    folder.mkdir()
    app = FlowerApp.read(APPS / name, [f"output='{folder}'"])
    pool.supply(app=app)
    flower_apps.serve(app, RayGrid(pool, nodes, app.run_config))
    return folder


def test_the_quickstart_app_gives_the_same_numbers_in_this_process_and_on_actors(pool: ActorPool, tmp_path: Path) -> None:
    here, there = inline("quickstart", tmp_path / "inline", 4), on_ray(pool, "quickstart", tmp_path / "ray", 4)
    metrics = json.loads((here / "metrics.json").read_text())
    assert metrics["train"]["2"]["rounds"] == 2  # the clients' states were kept
    assert metrics["evaluate"]["2"]["eval_acc"] > 0.7
    assert metrics == json.loads((there / "metrics.json").read_text())
    with np.load(here / "model.npz") as ours, np.load(there / "model.npz") as theirs:
        assert {name: ours[name].tobytes() for name in ours} == {name: theirs[name].tobytes() for name in theirs}


def kaplan_meier(times: NDArray[np.float64], events: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """The curve, a time after the other."""
    left, curve = 1.0, dict[float, float]()
    for time in sorted(set(times)):
        left *= 1 - events[times == time].sum() / (times >= time).sum()
        curve[float(time)] = left
    return list(curve), list(curve.values())


def test_a_pushed_gradient_trains_the_client_it_goes_to(tmp_path: Path) -> None:
    result = json.loads((inline("vertical", tmp_path / "inline", 2) / "result.json").read_text())
    assert result["losses"][-1] < 0.2 < 0.6 < result["losses"][0]
    assert result["accuracy"] > 0.95


def test_secure_aggregation_gives_the_mean_of_the_models(tmp_path: Path) -> None:
    result = json.loads((inline("secagg", tmp_path / "inline", 4) / "result.json").read_text())
    w, (x, y) = np.zeros(10), load_diabetes(return_X_y=True)
    for model in result["models"][1:]:
        local = []
        for part in range(4):
            mine, v = slice(part, None, 4), w
            for _ in range(20):
                v = v - 2.0 * x[mine].T @ (x[mine] @ v - y[mine] / 100) / len(y[mine])
            local.append((len(y[mine]), v))
        w = sum(n * v for n, v in local) / len(y)
        np.testing.assert_allclose(model, w, atol=1e-4)
        w = np.array(model)
    assert len(result["models"]) == 3
    assert result["losses"][1] < result["losses"][0]


def test_arrays_of_numpy_are_trained_by_flowers_strategy_as_it_is(tmp_path: Path) -> None:
    result = json.loads((inline("plain", tmp_path / "inline", 4) / "result.json").read_text())
    assert result["accuracies"][-1] > 0.9
    assert np.shape(result["model"]) == (5, 3)


def test_a_strategy_that_is_an_apps_own_sees_every_reply(tmp_path: Path) -> None:
    times, curve = json.loads((inline("survival", tmp_path / "inline", 4) / "result.json").read_text())
    data = load_diabetes()
    assert (times, pytest.approx(curve, abs=1e-12)) == kaplan_meier(data.target, data.data[:, 1] > 0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "nodes"), [("vertical", 2), ("secagg", 4), ("plain", 4), ("survival", 4)])
def test_the_shapes_of_flowers_examples_give_the_same_numbers_on_actors(pool: ActorPool, name: str, nodes: int, tmp_path: Path) -> None:
    folders = inline(name, tmp_path / "inline", nodes), on_ray(pool, name, tmp_path / "ray", nodes)
    here, there = (json.loads((folder / "result.json").read_text()) for folder in folders)
    assert here == there


def test_mods_lifespans_state_queries_named_actions_and_error_codes(pool: ActorPool, tmp_path: Path) -> None:
    said = json.loads((inline("features", tmp_path / "inline", 3) / "said.json").read_text())
    longer = [json.loads(reply) for reply in said["2 train.longer"]]
    assert [reply["seen"]["partition"] for reply in longer] == [0, 1, 2]
    assert longer[0]["seen"] | {"calls": 0} == {"calls": 0, "deep": 3, "mine": True, "nodes": 3, "partition": 0, "what": "train.longer!"}
    assert longer[0]["seen"]["calls"] == ["train", "train.longer"]
    assert (longer[0]["got"], longer[0]["mod"]) == ({"number": 4, "opened": 2}, {"type": "train.longer"})
    assert [json.loads(reply)["error"] for reply in said["5 query.nobody"]] == [2, 2, 2]
    assert len(said["pulled"]) == 3
    assert (tmp_path / "inline" / "closed").exists()
    assert said == json.loads((on_ray(pool, "features", tmp_path / "ray", 3) / "said.json").read_text())


def test_an_app_of_the_older_kind_hears_from_every_client(pool: ActorPool, tmp_path: Path) -> None:
    for folder in (inline("legacy", tmp_path / "inline", 7), on_ray(pool, "legacy", tmp_path / "ray", 7)):
        assert [json.loads(line) for line in (folder / "numbers.jsonl").read_text().splitlines()] == [list(range(7))] * 4


def test_the_server_app_runs_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, seen = ServerApp(), []

    @server.main()
    def main(grid: object, context: object) -> None:
        seen.append(os.getpid())

    app = FlowerApp.read(APPS / "features")
    monkeypatch.setattr(FlowerApp, "load_server", lambda self: server)
    flower_apps.run(app, INLINE, 2)
    assert seen == [os.getpid()]


CLIENT = """
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from fedsam import numbers

app = ClientApp()

@app.train()
def train(message, context):
    from experiments import more
    from fedsam.config import FACTOR  # ours has a module of this name
    sent = message.content["sent"]["number"]
    return Message(RecordDict({"got": MetricRecord({"number": numbers.ONE + FACTOR * sent + more()})}), reply_to=message)
"""
SERVER = """
from pathlib import Path
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp
from rich.console import Console
from fedsam import numbers

app = ServerApp()

@app.main()
def main(grid, context):
    from experiments import more
    nodes = grid.get_node_ids()
    nodes.reverse()
    messages = [Message(RecordDict({"sent": MetricRecord({"number": n})}), n, "train") for n in nodes]
    got = [reply.content["got"]["number"] for reply in grid.send_and_receive(messages)]
    Path(context.run_config["output"], "got").write_text(f"{got} {more()} {numbers.ONE} {context.run_id == grid.run.run_id != 1}")
"""


def test_an_app_whose_modules_have_names_of_ours_finds_its_own(pool: ActorPool, tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "src" / "fedsam").mkdir(parents=True)
    components = 'serverapp = "fedsam.server:app"\nclientapp = "fedsam.client:app"'
    table = f"[tool.flwr.app.components]\n{components}\n[tool.flwr.app.config]\noutput = ''\n"
    head = '[project]\nname = "some"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "me"\n'
    (app / "pyproject.toml").write_text(head + table)
    files = {"__init__": "", "numbers": "ONE = 1", "config": "FACTOR = 10", "client": CLIENT, "server": SERVER}
    for name, code in files.items():
        (app / "src" / "fedsam" / f"{name}.py").write_text(code)
    (app / "experiments.py").write_text("def more():\n    return 100\n")
    for place in ("inline", "ray"):
        (tmp_path / place).mkdir()
        read = FlowerApp.read(app, [f"output='{tmp_path / place}'"])
        if place == "inline":
            flower_apps.run(read, INLINE)
        else:
            pool.supply(app=read)
            grid = RayGrid(pool, 2, read.run_config)
            grid.set_run(random_run())
            flower_apps.serve(read, grid)
        assert (tmp_path / place / "got").read_text() == "[121, 111] 100 1 True"


def test_an_app_that_does_not_say_how_many_nodes_it_has_gets_flowers_default(tmp_path: Path) -> None:
    said = list[str]()
    progress = AppProgress(Console(file=io.StringIO()))
    progress.say = said.append  # type: ignore[method-assign]
    flower_apps.run(FlowerApp.read(APPS / "vertical", [f"output='{tmp_path}' rounds=1"]), INLINE, progress=progress)
    assert said[0] == "2 nodes, Flower's default, as the app does not say how many; --num-supernodes does"


def test_the_repository_is_an_app_of_its_own(tmp_path: Path) -> None:
    from experiments import run

    ours = experiment(tmp_path / "flower")
    (tmp_path / "run.toml").write_text(run_config(ours))
    flower_apps.run(FlowerApp.read(ROOT, [str(tmp_path / "run.toml")]), INLINE, 8)
    direct = run(experiment(tmp_path / "direct"))
    saved = sorted((tmp_path / "flower").glob("*/model.safetensors"))
    assert [path.read_bytes() for path in saved] == [(tmp_path / "direct" / direct.run_id / "model.safetensors").read_bytes()]


def test_a_preset_that_is_not_written_out_is_refused() -> None:
    app = FlowerApp.read(ROOT, ['experiment=\'{"method": "fedsam"}\''])
    with pytest.raises(ConfigError, match="the settings of method 'fedsam' must be written out; `fedsam run-config` does that"):
        flower_apps.run(app, INLINE, 8)


Fedsam = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fedsam(capsys: pytest.CaptureFixture[str]) -> Fedsam:
    """The command line in this process: arguments in; exit code, stdout and stderr out."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(str(stopped.value.code)), out, err

    return call


def test_the_command_runs_an_app(tmp_path: Path, fedsam: Fedsam) -> None:
    options = ["--grid", "inline", "--num-supernodes", 3, "--run-config", f"output='{tmp_path}' suffix='.'"]
    code, _, err = fedsam("flower", APPS / "features", *options)
    assert code == 0, err
    assert '"what\\": \\"train.\\"' in (tmp_path / "said.json").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grid", "rai"], "compute.grid: 'rai' is not allowed"),
        (["--actors", "0"], "compute.actors: 0 is not allowed"),
        (["-c", "sufix=1"], "run-config.sufix: unknown key, did you mean 'suffix'?"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(fedsam: Fedsam, options: list[str], said: str) -> None:
    code, _, err = fedsam("flower", APPS / "features", *options)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err


def test_run_config_writes_presets_out_and_paths_in_full(tmp_path: Path, fedsam: Fedsam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.toml").write_text('method = "fedsam"\nruns_dir = "here"\ndata.root = "there"\n')
    code, out, _ = fedsam("run-config", "e.toml")
    (tmp_path / "run.toml").write_text(out)
    told = json.loads(str(FlowerApp.read(ROOT, [str(tmp_path / "run.toml")]).run_config["experiment"]))
    assert code == 0
    assert (told["client"]["optimizer"]["name"], told["runs_dir"], told["data"]["root"]) == ("sam", f"{tmp_path}/here", f"{tmp_path}/there")
    (tmp_path / "s.toml").write_text("[sweep]\nseeds = [0, 1]\n")
    assert fedsam("run-config", "s.toml")[::2] == (2, "fedsam: sweep: 2 experiments are not allowed here: fix the swept settings with -o\n")


@pytest.mark.parametrize("compute", [Compute(cpus_per_actor=3), Compute(cpus_per_actor=3, actors=1)])
def test_an_actor_cannot_have_more_than_there_is(monkeypatch: pytest.MonkeyPatch, compute: Compute) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(actors, "ray_session", lambda *_, **__: nullcontext({"CPU": 2.0}))
    said = f"no actor of compute.cpus_per_actor {compute.cpus_per_actor} and .* fits; Ray has 2 CPUs and 0 GPUs"
    with pytest.raises(ConfigError, match=said), actors.actor_pool(compute, ClientApp):
        pass


def test_a_cluster_that_has_no_machine_yet_may_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    hired = dict[str, object]()
    monkeypatch.setattr(actors, "ray_session", lambda *_, **__: nullcontext({}))
    monkeypatch.setattr(actors, "_check", lambda compute: None)
    monkeypatch.setattr(actors, "ActorPool", lambda load, **settings: hired.update(settings))
    with actors.actor_pool(Compute(ray_address="auto", gpus_per_actor=0.5, actors=7), ClientApp):
        assert (hired["actors"], hired["gpus"]) == (7, 0.5)


@pytest.mark.parametrize(
    ("resources", "settings", "fit"),
    [
        ({"CPU": 7}, {"cpus_per_actor": 2}, 3),
        ({"CPU": 64, "GPU": 2}, {"gpus_per_actor": 0.25}, 8),
        ({"CPU": 64, "GPU": 2}, {"gpus_per_actor": 0.7}, 2),
        ({"CPU": 64, "GPU": 5}, {"gpus_per_actor": 2}, 2),
        ({"CPU": 3, "GPU": 1}, {"gpus_per_actor": 0.1}, 3),
    ],
)
def test_so_many_actors_fit(resources: dict[str, float], settings: dict[str, float], fit: int) -> None:
    assert actors.actors(resources, Compute.model_validate(settings)) == fit
