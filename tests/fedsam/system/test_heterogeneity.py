"""Simulated clients: what is drawn, for whom, and the seconds that follow."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from fedsam.config import ConfigError, parse
from fedsam.system.heterogeneity import DISTRIBUTIONS, ClientLoad, Heterogeneity, constant, lognormal, tiers, uniform

SETTINGS: dict[str, dict[str, Any]] = {
    "constant": {"value": 2.0},
    "uniform": {"low": 1.0, "high": 3.0},
    "lognormal": {"median": 2.0, "sigma": 1.0},
    "tiers": {"values": [1.0, 4.0]},
}


def simulated(seed: int = 0, clients: int = 10, **simulate: Any) -> Heterogeneity:
    return Heterogeneity.of(parse({"seed": seed, "data": {"clients": clients}, "simulate": simulate}))


def drawn(name: str, count: int = 4000, **settings: Any) -> list[float]:
    rng = np.random.default_rng(0)
    return [DISTRIBUTIONS[name](rng, **{**SETTINGS[name], **settings}) for _ in range(count)]


def test_every_distribution_is_tried_here() -> None:
    assert set(SETTINGS) == set(DISTRIBUTIONS)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_draws_are_above_0_and_depend_on_the_generator_alone(name: str) -> None:
    assert min(drawn(name)) > 0
    assert drawn(name) == drawn(name)


def test_distributions_are_what_they_say() -> None:
    assert set(drawn("constant")) == {2.0}
    between = drawn("uniform")
    assert 1 <= min(between) < 1.01 and 2.99 < max(between) <= 3
    assert np.mean(between) == pytest.approx(2, rel=0.02)
    logarithms = np.log(drawn("lognormal"))
    assert np.median(logarithms) == pytest.approx(math.log(2), abs=0.05)
    assert np.std(logarithms) == pytest.approx(1, rel=0.05)
    assert set(drawn("lognormal", sigma=0.0)) == {2.0}
    counts = Counter(drawn("tiers", weights=[3.0, 1.0]))
    assert counts[1.0] / counts.total() == pytest.approx(0.75, abs=0.03)
    assert Counter(drawn("tiers"))[1.0] == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize(
    ("simulate", "message"),
    [
        ({"speed": "fast"}, "simulate.speed: 'fast' is not known"),
        ({"speed": {"name": "constant"}}, "simulate.speed.value: must be given"),
        ({"bandwidth": {"name": "constant", "value": 0}}, "simulate.bandwidth.value: 0 is not allowed"),
        ({"speed": {"name": "uniform", "low": 2, "high": 1}}, r"simulate.speed.high: 1.0 is not allowed: at least low, 2.0"),
        ({"bandwidth": {"name": "tiers", "values": [1, 2], "weights": [1]}}, r"simulate.bandwidth.weights: \(1.0,\) is not allowed"),
        ({"speed": {"name": "tiers", "values": []}}, r"simulate.speed.values: \(\) is not allowed"),
        ({"dropout": 1}, "simulate.dropout: 1 is not allowed"),
    ],
)
def test_wrong_settings_are_named(simulate: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulated(**simulate)


def test_seconds_are_receiving_computing_and_sending() -> None:
    clients = simulated(speed={"name": "constant", "value": 100}, bandwidth={"name": "constant", "value": 10})
    load = ClientLoad(flops=500, bytes_down=30, bytes_up=20)
    assert clients.client_seconds(3, load) == pytest.approx(3 + 5 + 2)
    assert simulated(speed={"name": "constant", "value": 100}).client_seconds(3, load) == 5
    assert simulated(bandwidth={"name": "constant", "value": 10}).client_seconds(3, load) == 5


def test_a_round_takes_as_long_as_its_slowest_client() -> None:
    clients = simulated(speed={"name": "lognormal", "median": 1, "sigma": 1})
    loads = {client: ClientLoad(100 + client, 0, 0) for client in range(6)}
    assert clients.round_seconds(loads) == max(clients.client_seconds(client, load) for client, load in loads.items())
    assert clients.round_seconds({}) == 0
    assert simulated(dropout=0.5).round_seconds(loads) is None


def test_a_clients_draw_knows_the_seed_and_the_client_alone() -> None:
    speed, load = {"name": "lognormal", "median": 1, "sigma": 1}, ClientLoad(1, 1, 1)
    few, many = simulated(clients=5, speed=speed), simulated(clients=500, speed=speed)
    seconds = [few.client_seconds(client, load) for client in range(5)]
    assert seconds == [many.client_seconds(client, load) for client in range(5)]
    assert len(set(seconds)) == 5
    assert seconds != [simulated(seed=1, speed=speed).client_seconds(client, load) for client in range(5)]
    both = simulated(speed=speed, bandwidth=speed)
    assert both.client_seconds(0, ClientLoad(1, 0, 0)) != both.client_seconds(0, ClientLoad(0, 1, 0))


def test_clients_leave_with_the_given_probability_by_round() -> None:
    clients = simulated(dropout=0.3)
    left = np.array([[clients.drops_out(round, client) for client in range(50)] for round in range(1, 41)])
    assert left.mean() == pytest.approx(0.3, abs=0.03)
    assert left.any(axis=0).all() and not left.all(axis=0).any()
    assert [clients.drops_out(7, client) for client in range(50)] == left[6].tolist()
    assert not any(simulated().drops_out(round, 0) for round in range(100))


def test_parameters_are_keywords() -> None:
    rng = np.random.default_rng(0)
    assert constant(rng, value=3.0) == uniform(rng, low=3.0, high=3.0) == lognormal(rng, median=3.0, sigma=0.0) == tiers(rng, values=(3.0,))
