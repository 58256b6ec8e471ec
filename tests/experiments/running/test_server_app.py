"""Whole runs on small data: every grid gives the same numbers, everything is kept, failures are named."""

import sqlite3
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clients.optimizers import OPTIMIZERS
from experiments import Experiment, run
from experiments.callbacks.callback import Callback
from experiments.running import actors
from experiments.running.grids import actor_groups
from experiments.running.scheduler import run_all
from experiments.settings.catalogue import resolved
from experiments.settings.presets import PRESETS, expand
from fedsam.config import ConfigError, parse
from fedsam.data.datasets import DataError
from fedsam.messages.aggregation import NONFINITE
from fedsam.overrides import override
from fedsam.results.store import Results
from strategies.round import DivergedError, RoundConfig, RunError, client_error
from tests.support.official import offline

SMALL: dict[str, dict[str, Any]] = {"vsam": {"warmup_steps": 4, "window": 4, "blocks": 2}}


def experiment(folder: Path, **changes: Any) -> Experiment:
    """Two rounds of four digits clients out of eight, in this process."""
    settings = {
        "rounds": 2,
        "runs_dir": str(folder),
        "data": {"dataset": "digits", "clients": 8, "examples": 400},
        "model": "lenet5",
        "client": {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 20},
        "server": {"participation": 4},
        "compute": {"grid": "inline"},
    }
    return parse(override(settings, {key.replace("__", "."): value for key, value in changes.items()}))


@pytest.mark.parametrize("compute", [{"grid": "inline"}, {"grid": "ray", "actors": 1}])
def test_no_runs_at_once_are_refused(tmp_path: Path, compute: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="parallel: 0 is not allowed"), actor_groups([experiment(tmp_path, compute=compute)], 0):
        pass


class Told(Callback):
    """Keeps what it is told in words."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.phases: list[str] = []

    def warn(self, run_id: str, text: str) -> None:
        self.warnings.append(text)

    def phase(self, text: str, run_id: str | None = None) -> None:
        self.phases.append(text)


def test_what_can_hardly_be_meant_is_warned_of(tmp_path: Path) -> None:
    told = Told()
    run(experiment(tmp_path, rounds=1, server__participation=1, client__batch_size=300), told)
    assert told.warnings == [
        "server.participation: 1 is one of 8 clients in each round; 1.0 is all of them",
        "client.batch_size: 300 is more than any client has: every local step takes all of its examples",
    ]
    assert told.phases == ["loading digits", "round 1"]
    run(experiment(tmp_path, rounds=1, server__participation=1.0), quiet := Told())
    assert quiet.warnings == []


@pytest.mark.parametrize("several", [False, True])
def test_data_that_cannot_be_had_are_told_before_ray_starts(tmp_path: Path, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    monkeypatch.setattr(actors, "session", lambda _: pytest.fail("Ray starts"))
    settings = experiment(tmp_path, compute__grid="ray", data__dataset="cifar10", data__root=str(tmp_path / "data"))
    if several:
        outcomes = run_all([settings, settings.model_copy(update={"seed": 1})], Callback())
        assert [(outcome.run_id, outcome.status) for outcome in outcomes] == [(None, "failed")] * 2
        assert "cannot be downloaded" in str(outcomes[0].error)
    else:
        with pytest.raises(DataError, match="cannot be downloaded"):
            run(settings)


def test_a_run_keeps_its_rounds_and_its_model(tmp_path: Path) -> None:
    result = run(experiment(tmp_path, rounds=3, checkpoint__every=2, measure__clients=True))
    assert [row.round for row in result.rows] == [1, 2, 3]
    assert 0 <= result.accuracy <= 1
    assert {"test_accuracy", "test_loss", "client_accuracy", "client_loss"} <= set(result.rows[0].measures)
    with Results.open(tmp_path) as results:
        (kept,) = results.runs()
        assert kept.status == "finished"
        assert kept.config["client"]["optimizer"]["momentum"] == 0.0  # defaults of the parts are part of the record
        assert len(results.rounds(kept.id)) == 3
        assert results.label_distribution(kept.id).sum() == 400
    files = sorted(path.name for path in (tmp_path / result.run_id).iterdir())
    assert files == ["checkpoints", "model.safetensors", "round-00002.safetensors"]
    saved = load_file(tmp_path / result.run_id / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in result.model.state_dict().items())
    assert torch.equal(torch.cat([p.detach().reshape(-1) for p in result.model.parameters()]), result.w)


def test_costs_add_up(tmp_path: Path) -> None:
    row = run(experiment(tmp_path, client__optimizer__name="sam", rounds=1)).rows[0]
    size = run(experiment(tmp_path, rounds=1)).w.numel()
    assert row.gradient_evaluations == 2 * row.examples == 2 * sum(c.examples for c in row.clients)
    assert row.bytes_down == row.bytes_up == 4 * size * 4
    assert row.cohort == len(row.clients) == 4
    assert row.wall_seconds > 0
    assert row.client_seconds <= row.wall_seconds


def test_sam_without_radius_is_sgd_to_the_bit(tmp_path: Path) -> None:
    sam = run(experiment(tmp_path, client__optimizer={"name": "sam", "rho": 0.0, "lr": 0.05}))
    assert torch.equal(sam.w, run(experiment(tmp_path)).w)


def test_the_seed_decides(tmp_path: Path) -> None:
    assert torch.equal(run(experiment(tmp_path, seed=1)).w, run(experiment(tmp_path, seed=1)).w)
    assert not torch.equal(run(experiment(tmp_path, seed=1)).w, run(experiment(tmp_path, seed=2)).w)


def test_batch_norm_statistics_are_averaged_as_values(tmp_path: Path) -> None:
    changes = {"model": {"name": "resnet20", "norm": "batch"}, "data__examples": 64, "client__steps": 1, "rounds": 1}
    result = run(experiment(tmp_path, **changes))
    buffers = {name: b for name, b in result.model.named_buffers() if "running_var" in name}
    assert buffers
    assert all(bool((b > 0).all()) and not torch.equal(b, torch.ones_like(b)) for b in buffers.values())


def test_a_mask_of_minus_infinity_kept_as_a_buffer_trains_as_one_that_is_no_buffer(tmp_path: Path) -> None:
    changes = {"data__clients": 4, "data__partition": "iid", "data__examples": None, "client__batch_size": 32, "server__participation": 1.0}
    masked = experiment(tmp_path, model="tests.support.networks:MaskedTransformer", measure__union=False, **changes)
    assert run(masked).rows[-1].train_loss == pytest.approx(1.933980638003713, rel=1e-6)


@pytest.mark.parametrize(("mode", "before"), [("fail", ""), ("retry", ""), ("drop", "0 of 4 clients are left in round 1 .*; ")])
def test_a_diverging_client_stops_the_run_and_is_named(tmp_path: Path, mode: str, before: str) -> None:
    said = rf"^{before}client (\d) in round 1 \(seed 0\) sent a non-finite delta: .* may help; its learning rate was 1e\+30$"
    with pytest.raises(DivergedError, match=said) as diverged:
        run(experiment(tmp_path, client__optimizer__lr=1e30, rounds=5, server__on_client_error=mode))
    assert (diverged.value.round, f"client {diverged.value.client} " in str(diverged.value)) == (1, True)
    with Results.open(tmp_path) as results:
        (kept,) = results.runs()
        assert (kept.status, kept.error) == ("diverged", str(diverged.value))


def test_clients_of_which_one_failed_otherwise_have_not_diverged() -> None:
    failures = {2: f"{NONFINITE}delta", 3: "failed: no memory"}
    assert type(client_error(7, failures, RoundConfig(clients=4, sample=lambda _: (2, 3)))) is RunError


def test_a_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    bad = experiment(tmp_path, client__optimizer__lr=1e30, rounds=5)
    outcomes = run_all([bad, experiment(tmp_path)], Callback())
    assert [outcome.status for outcome in outcomes] == ["diverged", "finished"]
    assert all(outcome.run_id for outcome in outcomes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client__optimizer__rho": 0.1}, "client.optimizer.rho: unknown key"),
        ({"client__optimizer": {"name": "sam", "rho": -1}}, "client.optimizer.rho: -1 is not allowed"),
        ({"server__participation": 9}, "server.participation: 9 is not allowed: the population has 8 clients"),
        ({"data__clients": 500}, "data.clients: 500 is not allowed"),
        ({"data__examples": 5000}, "data.examples: 5000 is not allowed: digits has"),
        ({"data__dataset": "cifar11"}, "data.dataset: 'cifar11' is not known"),
    ],
)
def test_bad_settings_start_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        run(experiment(tmp_path, **changes))
    assert message in str(error.value)
    assert not (tmp_path / "fedsam.db").exists() or not sqlite3.connect(tmp_path / "fedsam.db").execute("SELECT * FROM runs").fetchall()


@pytest.mark.slow
@pytest.mark.parametrize("actors", [1, 2])
def test_actors_agree_with_this_process_to_the_bit(tmp_path: Path, shared_actors: None, actors: int) -> None:
    settings = {"rounds": 4, "client__optimizer": {"name": "sam", "lr": 0.05}}
    inline = run(experiment(tmp_path, **settings))
    on_ray = run(experiment(tmp_path, compute={"grid": "ray", "actors": actors}, **settings))
    assert torch.equal(on_ray.w, inline.w)
    assert [row.measures for row in on_ray.rows] == [row.measures for row in inline.rows]


class Notes(Callback):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def warn(self, run_id: str, text: str) -> None:
        """Kept."""
        self.notes.append(text)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizers_state_can_be_kept_over_rounds(tmp_path: Path, name: str) -> None:
    preset = next((preset for preset, found in PRESETS.items() if found.settings.get("client.optimizer.name") == name), None)
    optimizer = {"name": name, "momentum": 0.9, "lr": 0.01} | SMALL.get(name, {})
    model = f"tests.support.networks:{'normed' if name == 'sam_on' else 'tiny'}"  # small: each optimizer makes two runs
    settings = {"client__optimizer": optimizer, "rounds": 3, "client__steps": 2, "model": model, "data__clients": 4}
    settings |= {"measure__every": 3, "measure__union": False}
    settings |= {"method": preset} if preset not in (None, "fedavg", "fedsam", "fedasam") else {}
    fresh = run(expand(experiment(tmp_path, **settings).model_dump(mode="json", exclude_unset=True)))
    kept = run(expand(experiment(tmp_path, client__optimizer_state="keep", **settings).model_dump(mode="json", exclude_unset=True)))
    assert fresh.rows[0].train_loss == kept.rows[0].train_loss  # the first round has nothing to go on with
    assert not torch.equal(fresh.w, kept.w)


def test_a_method_that_cannot_be_itself_is_noted(tmp_path: Path) -> None:
    callback = Notes()
    run(experiment(tmp_path, client__optimizer={"name": "vsam"}, client__steps=2), callback)
    assert "vsam" in callback.notes[0].lower() or "warm-up" in callback.notes[0]
    quiet = Notes()
    run(experiment(tmp_path), quiet)
    assert quiet.notes == []


def test_a_budget_ends_the_run_after_the_round_that_reaches_it(tmp_path: Path) -> None:
    whole = run(experiment(tmp_path / "whole", rounds=5))
    budget = whole.rows[0].gradient_evaluations + whole.rows[1].gradient_evaluations + 1
    callback = Notes()
    cut = run(experiment(tmp_path / "cut", rounds=5, budget=budget, measure__every=5), callback)
    assert len(cut.rows) == 3
    assert cut.rows[-1].measures == whole.rows[2].measures | {
        name: value for name, value in cut.rows[-1].measures.items() if name.startswith(("union_", "class_accuracy_"))
    }
    assert not cut.rows[0].measures
    assert callback.notes == []
    assert (tmp_path / "cut" / cut.run_id / "model.safetensors").is_file()
    with Results.open(tmp_path / "cut") as results:
        (kept,) = results.runs()
    assert kept.status == "finished"
    assert kept.startup is not None and kept.startup > 0


def test_a_budget_that_is_not_reached_is_noted(tmp_path: Path) -> None:
    callback = Notes()
    result = run(experiment(tmp_path, budget=10**9), callback)
    spent = sum(row.gradient_evaluations for row in result.rows)
    assert callback.notes == [f"rounds: all 2 are over after {spent} gradient evaluations of a budget of 1000000000"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"client__schedule": "cosine"}, "client.schedule: 'cosine'"),
        ({"client__schedule": "cyclic"}, "client.schedule: 'cyclic'"),
        ({"client__schedule": {"name": "cyclic", "start": 3}}, None),
        ({"client__schedule": "exponential"}, None),
        ({"client__optimizer": {"name": "aesam"}}, "client.optimizer: 'aesam'"),
        ({"client__optimizer": {"name": "aesam", "total_steps": 100}}, None),
        ({"server__strategy": "swa"}, "server.strategy: 'swa'"),
        ({"server__strategy": {"name": "swa", "start": 3}}, None),
    ],
)
def test_a_budget_and_what_counts_on_the_number_of_rounds_exclude_each_other(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    resolved(experiment(tmp_path, **changes))
    with pytest.raises(ConfigError, match=f"{key} is not allowed with a budget") if key else nullcontext():
        resolved(experiment(tmp_path, budget=1000, **changes))


@pytest.mark.parametrize("method", sorted(PRESETS))
def test_every_preset_may_have_a_budget(tmp_path: Path, method: str) -> None:
    settings = experiment(tmp_path, budget=1000, method=method).model_dump(mode="json", exclude_unset=True)
    settings["client"].pop("optimizer")
    with pytest.raises(ConfigError, match="with a budget") if method == "fedasam_swa" else nullcontext():
        resolved(expand(settings))


def test_run_takes_plain_settings_presets_included(tmp_path: Path) -> None:
    settings = override(experiment(tmp_path, rounds=1).dump(), {"method": "fedsam", "client.optimizer": {"lr": 0.05}})
    result = run(settings)
    assert torch.equal(result.w, run(expand(settings)).w)
    with Results.open(tmp_path) as results:
        assert [kept.config["client"]["optimizer"]["rho"] for kept in results.runs()] == [0.1, 0.1]


@pytest.mark.parametrize(("key", "value"), [("rounds", 0), ("client.optimizer", "smap"), ("sweep.seeds", [0, 1]), ("round", 1)])
def test_run_says_what_is_wrong_with_plain_settings_and_starts_nothing(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{key.partition('.seeds')[0]}: "):
        run(override(experiment(tmp_path / "runs").dump(), {key: value}))
    assert not (tmp_path / "runs").exists()
