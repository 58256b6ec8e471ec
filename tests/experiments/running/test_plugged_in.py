"""A stranger's components, each in a few lines of a module outside the repository: the same bits on every grid, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import strategies
from clients import corrections, optimizers
from experiments.cli.options import read_experiments
from experiments.planning.plan import plan
from experiments.running.grids import DatasetCache
from experiments.running.server_app import run
from experiments.settings.catalogue import resolved
from fedsam import plugins
from fedsam.config import ConfigError, Experiment
from fedsam.data import partition
from fedsam.results.store import Results

MINE = '''
"""Components of somebody who has never seen the repository."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import helper
from clients.corrections import Correction
from clients.optimizers import LocalOptimizer, ball
from strategies import ServerRule


@dataclass(frozen=True, kw_only=True)
class HalfSAM(LocalOptimizer):
    """The mean of the gradients here and at the worst nearby point."""

    rho: float = 0.05

    def gradient(self, w, state, step):
        g1, losses = step.grad(w)
        g2, _ = step.grad(w + ball(g1, self.rho, 1e-12))
        return helper.HALF * (g1 + g2), losses, state


@dataclass(frozen=True, kw_only=True)
class Pull(Correction):
    """Pulls a client back to where its last round ended."""

    mu: float = 0.1
    keeps = ("last",)

    def initial(self, w):
        return {"last": w}

    def start(self, w, server_payload, client_state):
        return {"pull": self.mu * (w - client_state["last"])}

    def linear(self, g, terms):
        return g + terms["pull"]

    def finish(self, outcome, server_payload, client_state):
        client_state, payload = super().finish(outcome, server_payload, client_state)
        return {**client_state, "last": outcome.x}, payload


@dataclass(frozen=True, kw_only=True)
class HeavyBall(ServerRule):
    """Momentum on the server."""

    beta: float = 0.5

    def init_state(self, w):
        return {"v": torch.zeros_like(w)}

    def server_step(self, w, state, sent):
        v = self.beta * state["v"] + sent.delta
        return w + v, {"v": v}


def by_class(labels, num_clients, rng, *, noise: float = 0.1):
    """Each client gets one class; some examples go anywhere."""
    own = (labels + 3 * rng.integers(2, size=len(labels))) % num_clients
    owner = np.where(rng.random(len(labels)) < noise, rng.integers(num_clients, size=len(labels)), own)
    return [np.flatnonzero(owner == client) for client in range(num_clients)]


def warmup(round, rounds, *, first: int = 2):
    """A linear warm-up."""
    return min(1.0, round / first)


def odd_rounds(round, clients, cohort, rng, *, step: int = 2):
    """Every second client, beginning with the round's number."""
    return [client for client in range(clients) if client % step == round % step]


def net(image, classes, width=8):
    """A small network."""
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(image[0] * 64, width), nn.ReLU(), nn.Linear(width, classes))


def blobs(*, examples: int = 150):
    """Three classes of light at a place of their own, in noise."""
    from fedsam.data.datasets import Dataset

    rng = np.random.default_rng(0)
    y = rng.integers(3, size=examples)
    x = rng.uniform(0, 0.4, (examples, 32, 32))
    for image, kind in zip(x, y):
        image[8 * kind : 8 * kind + 8, 8:24] += 0.6
    return Dataset.from_arrays(x[30:], y[30:], x[:30], y[:30], class_names=("top", "middle", "bottom"), name="blobs")


def erratic(rng, *, most: float = 1e9):
    """FLOP/s."""
    return most * (0.1 + rng.random())
'''

CONFIG = """
rounds = 3
runs_dir = "runs"
model = { name = "mine:net", width = 12 }
server.participation = 3
server.strategy = { name = "mine:HeavyBall", beta = 0.4 }
server.sampling = "mine:odd_rounds"
measure.union = false
simulate.speed = "mine:erratic"
[data]
dataset = { name = "mine:blobs", examples = 150 }
clients = 6
partition = "mine:by_class"
[client]
optimizer = { name = "mine:HalfSAM", lr = 0.05, rho = 0.1 }
correction = { name = "mine:Pull", mu = 0.2 }
schedule = "mine:warmup"
batch_size = 10
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a configuration and a module beside it; the working directory is another one."""
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "mine.py").write_text(MINE)
    (folder / "helper.py").write_text("HALF = 0.5\n")
    (folder / "config.toml").write_text(CONFIG)
    monkeypatch.chdir(elsewhere)
    yield folder
    plugins.receive(())
    plugins.search()


def experiment(project: Path, *overrides: str) -> Experiment:
    (found,) = read_experiments(project / "config.toml", overrides, {"runs_dir": project / "runs"})
    return found


def test_the_same_bits_on_every_grid(project: Path, shared_actors: None) -> None:
    inline = run(experiment(project, "compute.grid=inline"))
    assert len(inline.rows) == 3
    for actors in (1, 2):
        on_ray = run(experiment(project, f"compute.actors={actors}"))
        assert torch.equal(on_ray.w, inline.w)
        assert [row.simulated_seconds for row in on_ray.rows] == [row.simulated_seconds for row in inline.rows]
    assert [[client.client for client in row.clients] for row in inline.rows] == [[1, 3, 5], [0, 2, 4], [1, 3, 5]]


def test_the_source_is_recorded_and_changed_code_is_another_experiment(project: Path) -> None:
    first = experiment(project, "compute.grid=inline", "rounds=1")
    run(first)
    with Results.open(project / "runs") as results:
        (recorded,) = results.runs()
        assert recorded.versions["module mine"].startswith("sha256:")
        assert plan([first], DatasetCache(), results)[0].concluded_run == recorded
        (project / "helper.py").write_text("HALF = 0.25\n")
        changed = experiment(project, "compute.grid=inline", "rounds=1")
        assert changed == first
        assert plan([changed], DatasetCache(), results)[0].concluded_run is None


def test_settings_of_plugged_components_are_checked_and_filled_in(project: Path) -> None:
    plain = resolved(experiment(project))
    assert plain["client"]["optimizer"]["rho"] == 0.1
    assert plain["client"]["schedule"] == {"name": "mine:warmup", "first": 2}
    assert plain["server"]["sampling"] == {"name": "mine:odd_rounds", "step": 2}
    assert plain["model"] == {"name": "mine:net", "width": 12}
    assert plain["data"]["dataset"] == {"name": "mine:blobs", "examples": 150}
    json.dumps(plain)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("client.optimizer.roh=1", "client.optimizer.roh: unknown key, did you mean 'rho'"),
        ('client.optimizer.rho="much"', "client.optimizer.rho: 'much' is not allowed"),
        ("server.sampling.setp=1", "server.sampling.setp: unknown key, did you mean 'step'"),
        ("server.sampling=mine:net", "server.sampling: 'mine:net' is not allowed: it takes 3 arguments, not a function of (round,"),
        (
            "server.strategy=mine:HalfSAM",
            "server.strategy: 'mine:HalfSAM' is not allowed: it is the class HalfSAM, not a class derived from",
        ),
        ("data.partition.noise=[]", "data.partition.noise: [] is not allowed"),
        ("client.schedule=mine:warmpu", "mine.py has no warmpu, did you mean 'warmup'?"),
        ("model=theirs:net", "model: 'theirs:net' is not allowed: there is no module theirs; searched "),
    ],
)
def test_wrong_settings_are_told_before_anything_starts(project: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        run(experiment(project, override))
    assert message in str(error.value)
    assert not (project / "runs").exists()


BROKEN: Mapping[str, tuple[str, str, str]] = {
    "server step": (
        "server.strategy",
        "class X(ServerRule):\n    def broadcast(self, w, state):\n        return state['v']\n    def server_step(s, w, state, sent): ...",
        "server.strategy: 'broken:X' is not allowed: it ended with KeyError: 'v' (",
    ),
    "sampler": (
        "server.sampling",
        "def X(round, clients, cohort, rng):\n    return [clients]",
        "server.sampling: the cohort of round 1 is [6]: must be different clients from 0 to 5",
    ),
    "partition twice": (
        "data.partition",
        "def X(labels, num_clients, rng):\n    return [range(len(labels))] * num_clients",
        "data.partition: 'broken:X' is not allowed: it deals an example twice",
    ),
    "partition short": (
        "data.partition",
        "def X(labels, num_clients, rng):\n    return [[client] for client in range(num_clients)]",
        "data.partition: 'broken:X' is not allowed: it deals 6 of 120 examples",
    ),
    "partition empty": (
        "data.partition",
        "def X(labels, num_clients, rng):\n    return [range(len(labels))] + [[]] * (num_clients - 1)",
        "data.partition: 'broken:X' is not allowed: client 1 has no examples; 5 of 6 clients have none",
    ),
    "partition floats": (
        "data.partition",
        "def X(labels, num_clients, rng):\n    return [[0.5]] * num_clients",
        "data.partition: 'broken:X' is not allowed: it must give arrays of whole numbers",
    ),
    "partition count": (
        "data.partition",
        "def X(labels, num_clients, rng):\n    return [range(len(labels))]",
        "data.partition: 'broken:X' is not allowed: it gives 1 index arrays for 6 clients (data.clients)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_components_that_break_their_promise_are_named(project: Path, kind: str) -> None:
    key, text, message = BROKEN[kind]
    head = "from dataclasses import dataclass\nfrom strategies import ServerRule\n"
    (project / "broken.py").write_text(head + "@dataclass(frozen=True, kw_only=True)\n" * text.startswith("class") + text)
    with pytest.raises(ConfigError) as error:
        run(experiment(project, f"{key}=broken:X", "compute.grid=inline"))
    assert message in str(error.value)


def test_public_names_are_complete() -> None:
    for package, table in (
        (optimizers, optimizers.OPTIMIZERS),
        (corrections, corrections.CORRECTIONS),
        (strategies, strategies.STRATEGIES),
    ):
        entries: Any = table
        assert {entry.__name__ for entry in entries.values()} <= set(package.__all__)
        assert all(hasattr(package, name) for name in package.__all__)


def test_partitions_are_checked_alike() -> None:
    assert [part.tolist() for part in partition.validate_partition([[2, 0], (1,)], 3, 2, "mine")] == [[2, 0], [1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def X(image, classes):\n    return 3", "model: 'broken:X' is not allowed: it makes a int, not a torch.nn.Module"),
        ("def X(image, classes):\n    return image.height", "model: 'broken:X' is not allowed: it ended with AttributeError: "),
    ],
)
def test_wrong_networks_are_told_before_anything_starts(project: Path, text: str, message: str) -> None:
    (project / "broken.py").write_text(text)
    with pytest.raises(ConfigError) as error:
        run(experiment(project, "model=broken:X"))
    assert message in str(error.value)
    assert not (project / "runs").exists()
