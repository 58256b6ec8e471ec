"""Corrections worked out by hand: what they add to a step, what the client keeps, what goes up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clients.corrections import build
from clients.corrections.base import Correction, LocalOutcome, Payload, Vectors
from clients.optimizers.sgd import SGD
from fedsam.config import Component, ConfigError
from fedsam.schedules import LocalRate
from tests.support.objectives import layout_of

W, X, G = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 2.0], [3.0, 1.0], [10.0, 20.0]))


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def made(name: str, **settings: Any) -> Correction:
    return build(Component(name=name, **settings))


def round_of(correction: Correction, server_payload: Vectors, client_state: Vectors, **state: Tensor) -> tuple[Tensor, Vectors, Payload]:
    """The direction at X for gradient G, what is kept and sent after 4 steps of rate 0.5 from W to X."""
    terms = correction.start(W, server_payload, client_state)
    direction = correction.linear(G, terms) + correction.kappa * X
    return direction, *correction.finish(LocalOutcome(W, X, state, 4, SGD(lr=0.5)), server_payload, client_state)


def test_none_and_proximal() -> None:
    assert torch.equal(round_of(made("none"), {}, {})[0], G)
    direction, client_state, payload = round_of(made("proximal", mu=0.5), {}, {})
    assert torch.equal(direction, vector(10 + 0.5 * 2, 20 + 0.5 * -1))
    assert (client_state, payload) == ({}, Payload())


def test_control_variate() -> None:
    # c - c_i = (1, 1); c_i+ - c_i = -c - D / (4 * 0.5) = (-3, -1) - (1, -0.5).
    direction, client_state, payload = round_of(made("control_variate"), {"c": vector(3, 1)}, {"c": vector(2, 0)})
    assert torch.equal(direction, vector(11, 21))
    assert torch.equal(payload.population["c"], vector(-4, -0.5))
    assert torch.equal(client_state["c"], vector(-2, -0.5))
    assert torch.equal(round_of(made("control_variate", scale=0.5), {"c": vector(3, 1)}, {"c": vector(2, 0)})[0], vector(10.5, 20.5))


def test_dual() -> None:
    # g + lam (h + x - w) = (10, 20) + 0.5 (4 + 2, 6 - 1).
    direction, client_state, payload = round_of(made("dual", lam=0.5), {}, {"h": vector(4, 6)})
    assert torch.equal(direction, vector(13, 22.5))
    assert torch.equal(client_state["h"], vector(6, 5))
    assert payload == Payload()
    assert torch.equal(round_of(made("dual", lam=0.5, anchored=False), {}, {"h": vector(4, 6)})[0], vector(12, 23))


def test_client_momentum() -> None:
    direction, client_state, _ = round_of(made("client_momentum", alpha=0.25), {"m": vector(4, 8)}, {})
    assert torch.equal(direction, vector(2.5 + 3, 5 + 6))
    assert client_state == {}


def test_prox_correction() -> None:
    # g - ghat + lam (x - w); ghat+ = (1, 1) - 0.5 (2, -1) = (0, 1.5); D - ghat+ / lam = (2, -1) - (0, 3).
    direction, client_state, payload = round_of(made("prox_correction", lam=0.5), {}, {"ghat": vector(1, 1)})
    assert torch.equal(direction, vector(10, 18.5))
    assert torch.equal(client_state["ghat"], vector(0, 1.5))
    assert payload.delta is not None
    assert torch.equal(payload.delta, vector(2, -4))


@pytest.mark.parametrize(("upload", "sent_value"), [("mu", (5, 5)), ("mu_minus_last", (4, 3)), ("mu_change", (4, 4))])
def test_smoo(upload: str, sent_value: tuple[float, float]) -> None:
    correction = made("fedsmoo", lam=0.5, upload=upload)
    client_state = {"h": vector(4, 6), "mu": vector(1, 1)}
    direction, after, payload = round_of(correction, {"s": vector(7, 7)}, client_state, mu=vector(5, 5), e=vector(1, 2))
    assert torch.equal(direction, vector(13, 22.5))
    assert torch.equal(after["mu"], vector(5, 5))
    assert torch.equal(after["h"], vector(6, 5))
    ((kind, _, name),) = (entry.partition(".") for entry in correction.sends)
    assert torch.equal(getattr(payload, kind)[name], vector(*sent_value))
    assert set(correction.start(W, {"s": W}, client_state)) >= {"mu", "s"}


def test_lookback_points_to_where_the_global_vector_was() -> None:
    own = made("lookback")
    assert not own.start(W, {}, own.initial(W))["ascent"].any()
    assert torch.equal(own.start(W, {}, {"w_old": vector(0, 5)})["ascent"], vector(-1, 3))
    assert torch.equal(round_of(own, {}, {"w_old": X})[1]["w_old"], W)
    shared = made("lookback", direction="previous_round", inner={"name": "dual", "lam": 0.5})
    assert (shared.keeps, shared.needs) == (("h",), ("w_old",))
    direction, client_state, _ = round_of(shared, {"w_old": vector(0, 5)}, {"h": vector(4, 6)})
    assert torch.equal(direction, vector(13, 22.5))
    assert torch.equal(client_state["h"], vector(6, 5))


def test_normalized_divides_by_how_far_gradients_were_carried() -> None:
    _, _, payload = round_of(made("normalized"), {}, {})
    assert payload.delta is not None
    assert torch.allclose(payload.delta, vector(0.5, -0.25), rtol=1e-12)
    assert payload.metrics["tau"] == pytest.approx(4)
    # Local momentum 0.5 for 2 steps: 1 + 1.5; a proximal term of lr mu = 0.25 for 2 steps: 0.75 + 1.
    momentum = made("normalized").finish(LocalOutcome(W, X, {}, 2, SGD(lr=0.5, momentum=0.5)), {}, {})[1]
    assert momentum.metrics["tau"] == pytest.approx(2.5)
    proximal = made("normalized", mu=0.5).finish(LocalOutcome(W, X, {}, 2, SGD(lr=0.5)), {}, {})[1]
    assert proximal.delta is not None
    assert torch.allclose(proximal.delta, vector(2, -1) / 1.75, rtol=1e-12)
    assert proximal.metrics["tau"] == 2


def test_a_rate_that_falls_within_the_round_shortens_the_reach() -> None:
    # Rates 0.5 (1, 0.75, 0.5, 0.25) with a floor of 0: their sum is 1.25.
    outcome = LocalOutcome(W, X, {}, 4, SGD(lr=0.5), LocalRate(0.0))
    assert outcome.reach == 1.25
    after, payload = made("control_variate").finish(outcome, {"c": vector(0, 0)}, {"c": vector(0, 0)})
    assert torch.equal(after["c"], -vector(2, -1) / 1.25)
    assert torch.equal(payload.population["c"], after["c"])
    nova = made("normalized").finish(outcome, {}, {})[1]
    assert nova.metrics["tau"] == pytest.approx(2.5)


@pytest.mark.parametrize(("variate_rate", "divisor"), [("sum", 1.25), ("mean", 1.0)])
def test_fedmoswa_sends_its_distance_to_the_servers_variate(variate_rate: str, divisor: float) -> None:
    outcome = LocalOutcome(W, X, {}, 4, SGD(lr=0.5), LocalRate(0.0))
    c, mine = vector(1, 1), vector(3, -1)
    after, payload = made("fedmoswa", variate_rate=variate_rate).finish(outcome, {"c": c}, {"c": mine})
    assert torch.allclose(after["c"], mine - c - vector(2, -1) / divisor, rtol=1e-12)
    assert torch.equal(payload.mean["c"], after["c"] - c)
    assert not payload.population


@pytest.mark.parametrize(("m", "disagreement"), [((2.0, -1.0), 2.0), ((-2.0, 1.0), 0.0), ((1.0, 2.0), 1.0), ((0.0, 0.0), 0.0)])
def test_fedwmsam_says_how_far_a_client_went_up_the_momentum(m: tuple[float, float], disagreement: float) -> None:
    received = {"c": vector(0, 0), "m": vector(*m), "alpha": vector(0.25)}
    direction, _, payload = round_of(made("fedwmsam"), received, {"c": vector(0, -3)})
    assert payload.metrics["disagreement"] == pytest.approx(disagreement, abs=1e-12)
    # alpha (g + c - c_i) + (1 - alpha) m
    assert torch.allclose(direction, 0.25 * (G + vector(0, 3)) + 0.75 * vector(*m), rtol=1e-12)


@pytest.mark.parametrize(("scope", "sent"), [("vector", (3 / 5, 4 / 5)), ("tensor", (1.0, 1.0))])
def test_a_private_delta_is_clipped_as_one_or_by_tensors(scope: str, sent: tuple[float, float]) -> None:
    layout = layout_of(("a", (1,)), ("b", (1,)))
    outcome = LocalOutcome(W, W + vector(3, 4), {}, 1, SGD(), layout=layout, cohort=4, rng=partial(np.random.default_rng, 0))
    quiet = made("private", clip=1.0, scope=scope, sigma=0.0).finish(outcome, {}, {})[1]
    assert quiet.delta is not None
    assert torch.allclose(quiet.delta, vector(*sent), rtol=1e-12)
    noisy = made("private", clip=1.0, scope=scope, sigma=2.0).finish(outcome, {}, {})[1]
    assert noisy.delta is not None
    assert torch.allclose(noisy.delta, vector(*sent) + torch.from_numpy(np.random.default_rng(0).standard_normal(2)), rtol=1e-12)
    still = made("private", clip=1.0, scope=scope, sigma=0.0).finish(replace(outcome, x=W), {}, {})[1]
    assert still.delta is not None
    assert torch.equal(still.delta, vector(0, 0))


@pytest.mark.parametrize("inner", ["control_variate", "dual", "normalized", "prox_correction"])
def test_a_private_client_keeps_and_sends_nothing_that_follows_its_delta(inner: str) -> None:
    with pytest.raises(ConfigError, match=rf"client.correction.inner: '{inner}' is not allowed in 'private'"):
        made("private", inner=inner)


def test_a_private_client_must_know_its_cohort() -> None:
    with pytest.raises(ConfigError, match="does not say how many clients a round has"):
        made("private").finish(LocalOutcome(W, X, {}, 1, SGD()), {}, {})
