"""Runs with simulated clients: the clock, and rounds that clients leave."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import Experiment, run
from experiments.running.run import DROPPED
from experiments.settings.presets import expand
from fedsam.config import ConfigError
from fedsam.overrides import override
from fedsam.results.rows import cumulative
from fedsam.seeds import stream
from fedsam.system.heterogeneity import Heterogeneity

CLOCK = {"speed": {"name": "lognormal", "median": 1e9, "sigma": 0.5}, "bandwidth": {"name": "constant", "value": 1e6}}


def experiment(folder: Path, **changes: Any) -> Experiment:
    """Four rounds of four digits clients out of eight, in this process."""
    settings = {
        "rounds": 4,
        "runs_dir": str(folder),
        "data": {"dataset": "digits", "clients": 8, "examples": 200},
        "model": "lenet5",
        "client": {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 20},
        "server": {"participation": 4},
        "compute": {"grid": "inline"},
    }
    return expand(override(settings, {key.replace("__", "."): value for key, value in changes.items()}))


def test_the_clock_is_that_of_the_slowest_client(tmp_path: Path) -> None:
    settings = experiment(tmp_path, rounds=2, simulate=CLOCK)
    rows = run(settings).rows
    for row in rows:
        each = row.flops / row.gradient_evaluations  # SGD makes no other passes
        traffic = (row.bytes_down + row.bytes_up) / row.cohort / 1e6
        seconds = [_seconds(settings, client.client, client.examples * each) + traffic for client in row.clients]
        assert row.simulated_seconds == pytest.approx(max(seconds))
    total = cumulative(rows)[-1].simulated_seconds
    assert total == pytest.approx(sum(row.simulated_seconds or 0 for row in rows))


def _seconds(settings: Experiment, client: int, flops: float) -> float:
    return flops / (1e9 * math.exp(0.5 * stream(settings.seed, "simulated speed", client).standard_normal()))


def test_nothing_is_simulated_unless_asked(tmp_path: Path) -> None:
    rows = run(experiment(tmp_path, rounds=1)).rows
    assert rows[0].simulated_seconds is None and rows[0].failures == 0


def test_simulating_time_changes_no_other_number(tmp_path: Path) -> None:
    assert torch.equal(run(experiment(tmp_path, rounds=2)).w, run(experiment(tmp_path, rounds=2, simulate=CLOCK)).w)


def test_clients_that_leave_are_recorded_and_cost_nothing(tmp_path: Path) -> None:
    settings = experiment(tmp_path, simulate={"dropout": 0.4})
    calm, rows = run(experiment(tmp_path)).rows, run(settings).rows
    leaves = Heterogeneity.of(settings).drops_out
    for before, row in zip(calm, rows, strict=True):
        sampled = [client.client for client in before.clients]
        assert [client.client for client in row.clients] == sampled
        assert {c.client: c.status for c in row.clients} == {c: DROPPED if leaves(row.round, c) else "ok" for c in sampled}
        assert row.cohort + row.failures == len(sampled)
        assert row.bytes_down == before.bytes_down // 4 * row.cohort
        assert row.gradient_evaluations == sum(client.examples for client in row.clients if client.status == "ok")
    assert 0 < sum(row.failures for row in rows) < 16
    assert settings.server.on_client_error == "fail"


def test_methods_of_one_seed_lose_the_same_clients(tmp_path: Path) -> None:
    lost = {}
    for method in ("fedavg", "scaffold", "feddyn"):
        rows = run(experiment(tmp_path, method=method, simulate={"dropout": 0.5}, server__sampling="fixed")).rows
        lost[method] = [(client.client, client.status) for row in rows for client in row.clients]
    assert lost["fedavg"] == lost["scaffold"] == lost["feddyn"]


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "swa", "flower_median"])
def test_a_round_that_all_leave_changes_nothing(tmp_path: Path, strategy: str) -> None:
    everyone = {"server__participation": 1, "simulate": {"dropout": 0.6, **CLOCK}, "measure__clients": True}
    result = run(experiment(tmp_path, rounds=6, server__strategy=strategy, **everyone))
    losses = [row.measures["test_loss"] for row in result.rows]
    empty = [row.round for row in result.rows if row.cohort == 0]
    assert 0 < len(empty) < 6
    for row in (row for row in result.rows if row.round in empty):
        assert (row.failures, row.bytes_down, row.bytes_up, row.flops, row.simulated_seconds) == (1, 0, 0, 0, 0.0)
        assert math.isnan(row.train_loss) and "client_loss" not in row.measures
        assert row.round == 1 or losses[row.round - 1] == losses[row.round - 2]


@pytest.mark.slow
def test_dropouts_are_the_same_on_every_grid(tmp_path: Path, shared_actors: None) -> None:
    settings = {"method": "scaffold", "simulate": {"dropout": 0.4}, "rounds": 3}
    inline = run(experiment(tmp_path, **settings))
    on_ray = run(experiment(tmp_path, compute={"grid": "ray", "actors": 2}, **settings))
    assert torch.equal(inline.w, on_ray.w)
    assert [row.failures for row in inline.rows] == [row.failures for row in on_ray.rows]


def test_a_wrong_distribution_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"simulate\.speed\.high: 1\.0 is not allowed"):
        run(experiment(tmp_path, simulate={"speed": {"name": "uniform", "low": 2, "high": 1}}))
    assert not (tmp_path / "fedsam.db").exists()
