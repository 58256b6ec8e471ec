"""Server rules: one or two rounds worked out by hand, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsam.config import Component, ConfigError
from fedsam.schedules import LocalRate
from strategies import build
from strategies.base import Aggregate, ServerRule, State
from strategies.fedgloss import FedGloSS

W = torch.tensor([1.0, -1.0], dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def played(rule: ServerRule, *sent: Aggregate) -> tuple[list[Tensor], State]:
    """The global vectors after each round, and the last state."""
    w, state, vectors = W, rule.init_state(W), []
    for aggregate in sent:
        w, state = rule.server_step(w, state, aggregate)
        vectors.append(w)
    return vectors, state


def made(name: str, **settings: Any) -> ServerRule:
    return build(Component(name=name, **settings))


def test_fedavg_and_momentum() -> None:
    (w,), _ = played(made("fedavg", lr=0.5), Aggregate(vector(2, 4)))
    assert torch.equal(w, vector(2, 1))
    # v = -(2, 4), then 0.5 v - (1, 1).
    (_, w), _ = played(made("fedavgm", momentum=0.5), Aggregate(vector(2, 4)), Aggregate(vector(1, 1)))
    assert torch.equal(w, W + vector(2, 4) + vector(2, 3))


def test_adaptive_rules_move_by_the_first_moment_over_the_root_of_the_second() -> None:
    d = vector(2, -4)
    (w,), state = played(made("fedadagrad", lr=1.0, tau=1.0), Aggregate(d))
    assert torch.allclose(w, W + vector(2 / 3, -4 / 5))
    (w,), state = played(made("fedadam", lr=1.0, tau=1.0, beta1=0.5, beta2=0.75), Aggregate(d))
    assert torch.allclose(w, W + vector(1 / 2, -2 / 3))
    (w,), state = played(made("fedyogi", lr=1.0, tau=1.0, beta1=0.5, beta2=0.75, v0=5.0), Aggregate(d))
    assert torch.allclose(state["v"], vector(5 - 1, 5 + 4))  # towards 4 and 16
    assert torch.allclose(w, W + vector(1 / 3, -2 / 4))


@pytest.mark.parametrize(("correction", "factor"), [("torch", 1.0), ("flower", (1 - 0.75**2) ** 0.5 / (1 - 0.5**2) * 0.5 / 0.25**0.5)])
def test_bias_corrections_of_the_first_round(correction: str, factor: float) -> None:
    rule = made("fedadam", lr=1.0, tau=1e-12, beta1=0.5, beta2=0.75, bias_correction=correction)
    (w,), _ = played(rule, Aggregate(vector(2, -4)))
    assert torch.allclose(w - W, factor * vector(1, -1), rtol=1e-9)


def test_torch_bias_correction_is_torch_adam() -> None:
    deltas = [vector(2, -4), vector(1, 1), vector(-3, 0.5)]
    rule = made("fedadam", lr=0.1, tau=0.1, beta1=0.9, beta2=0.99, bias_correction="torch")
    vectors, _ = played(rule, *(Aggregate(d) for d in deltas))
    parameter = W.clone().requires_grad_()
    adam = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.99), eps=0.1)
    for d, w in zip(deltas, vectors, strict=True):
        parameter.grad = -d
        adam.step()
        assert torch.allclose(w, parameter.detach(), rtol=1e-12)


def test_scaffold_and_feddyn_follow_the_population() -> None:
    sent = Aggregate(vector(2, 4), population={"c": vector(1, 0), "delta": vector(0.5, 1)})
    (w, _), state = played(made("scaffold"), sent, sent)
    assert torch.equal(w, W + vector(2, 4))
    assert torch.equal(state["c"], vector(2, 0))
    (first, second), state = played(made("feddyn"), sent, sent)
    assert torch.equal(first, W + vector(2.5, 5))
    assert torch.equal(second - first, vector(3, 6))


def test_fednova_takes_as_many_steps_as_the_mean_client() -> None:
    sent = Aggregate(vector(2, 4), metrics={"tau": 3.0}, lr=0.5)
    assert torch.equal(played(made("fednova"), sent)[0][0], W + vector(6, 12))
    # In units of the local rate: v = -12, then 0.5 v - 12 of a round with half the rate, so half as far.
    later = Aggregate(vector(1, 2), metrics={"tau": 3.0}, lr=0.25)
    (first, second), _ = played(made("fednova", momentum=0.5), sent, later)
    assert torch.equal(first, W + vector(6, 12))
    assert torch.equal(second - first, 0.25 * (0.5 * vector(12, 24) + vector(12, 24)))


def test_fedcm_sends_the_last_step_in_units_of_a_gradient() -> None:
    rule = made("fedcm", inner={"name": "fedavg", "lr": 0.5})
    (w,), state = played(rule, Aggregate(vector(2, 4), metrics={"steps": 4.0}, lr=0.5))
    assert torch.equal(w, W + vector(1, 2))
    assert torch.equal(rule.broadcast(w, state)["m"], vector(-1, -2))


def test_fedacg_starts_clients_ahead() -> None:
    rule = made("fedacg", momentum=0.5)
    (w,), state = played(rule, Aggregate(vector(2, 4)))
    assert torch.equal(rule.broadcast(w, state)["w"], W + vector(3, 6))


def test_fedexp_goes_further_the_less_clients_agree() -> None:
    rule = made("fedexp", epsilon=0.5, epsilon_decay=1.0)
    agree, differ = (Aggregate(vector(3, 4), squared_norm=s, cohort=2) for s in (25.0, 104.0))
    assert torch.equal(played(rule, agree)[0][0], W + vector(3, 4))
    (first, second), state = played(rule, differ, Aggregate(vector(3, 4), squared_norm=104.0, cohort=2, round=2))
    assert torch.allclose(first, W + 2 * vector(3, 4), rtol=1e-12)  # 0.5 * 104 / (25 + 2 * 0.5)
    assert torch.equal(rule.evaluated(second, state), (first + second) / 2)
    (first,), state = played(rule, differ)
    assert torch.equal(rule.evaluated(first, state), first)


def test_fedgf_weighs_by_how_often_clients_strayed() -> None:
    rule = made("fedgf", rho=5.0, threshold=1.0, window=2)
    near, far = (Aggregate(vector(3, 4), norm=norm) for norm in (0.5, 2.0))
    (w,), state = played(rule, near)
    assert torch.allclose(state["wp"], w - vector(3, 4), rtol=1e-12)  # 5 back along a move of length 5
    assert [played(rule, *rounds)[1]["share"] for rounds in ((near,), (near, far), (near, far, far))] == [0.0, 0.5, 1.0]
    assert bool(torch.isfinite(played(rule, Aggregate(vector(0, 0)))[1]["wp"]).all())


def test_fedgloss_perturbs_along_the_last_pseudo_gradient_but_moves_from_the_unperturbed_vector() -> None:
    rule = made("fedgloss", rho=5.0)
    sent = Aggregate(vector(3, 4), population={"delta": vector(1, 1)}, cohort=2)
    assert torch.equal(rule.broadcast(W, rule.init_state(W))["w"], W)
    (w,), state = played(rule, sent)
    assert torch.equal(w, W + vector(3.5, 4.5))
    assert torch.allclose(rule.broadcast(w, state)["w"], w - vector(3, 4), rtol=1e-12)
    assert torch.equal(played(made("fedgloss", dual_divisor="population"), sent)[0][0], W + vector(4, 5))


def test_the_released_warm_up_of_fedgloss_is_a_plateau() -> None:
    linear = FedGloSS(rho=0.15, warmup_rounds=3)
    assert [linear.radius(r) for r in range(1, 6)] == pytest.approx([0.001, 0.001 + 0.149 / 3, 0.001 + 0.298 / 3, 0.15, 0.15])
    released = replace(linear, warmup_plateau=0.1 + 0.149 / 3)
    assert [released.radius(r) for r in range(1, 6)] == pytest.approx([0.001, 0.149667, 0.149667, 0.149667, 0.15], abs=1e-6)


def test_swa_replaces_the_copy_by_the_first_average() -> None:
    rule = made("swa", start=1, cycle=2)
    rounds = [Aggregate(vector(1, 0), round=round) for round in range(1, 7)]
    evaluated = []
    for upto in range(1, 7):
        vectors, state = played(rule, *rounds[:upto])
        evaluated.append(float(rule.evaluated(vectors[-1], state)[0]))
    # Vectors 2, 3, 4, ...: itself, the copy of 2, the copy, 5 ... rounds 4 and 6 are averaged.
    assert evaluated == [2.0, 2.0, 2.0, 5.0, 5.0, 6.0]
    late = made("swa", start=0.5, cycle=1)
    vectors, state = played(late, *(Aggregate(vector(1, 0), round=round, rounds=6) for round in range(1, 7)))
    assert float(late.evaluated(vectors[-1], state)[0]) == 6.5


def test_ema_and_previous_send_older_vectors() -> None:
    sent = Aggregate(vector(2, 4), population={"delta": vector(0, 0)})
    rule = made("ema", inner="fedavg", decay=0.75)
    (w,), state = played(rule, sent)
    assert torch.equal(rule.broadcast(w, state)["ema"], W + 0.25 * vector(2, 4))
    rule = made("previous")
    assert torch.equal(rule.broadcast(W, rule.init_state(W))["w_old"], W)
    (w,), state = played(rule, sent)
    assert torch.equal(rule.broadcast(w, state)["w_old"], W)


def test_a_rule_named_inside_another_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"server.strategy.inner: 'warp' is not known"):
        made("scaffold", inner="warp").init_state(W)


@pytest.mark.parametrize(("first_round", "first", "second"), [("average", (0.5, 1.0), (0.75, 0.5)), ("replace", (2.0, 4.0), (2.25, 3.5))])
def test_fedmoswa_averages_the_cohorts_variates(first_round: str, first: tuple[float, float], second: tuple[float, float]) -> None:
    rule = made("fedmoswa", gamma=0.25, first_round=first_round)
    sent = [Aggregate(vector(0, 0), mean={"c": vector(2, 4)}), Aggregate(vector(0, 0), mean={"c": vector(1, -2)})]
    states = [played(rule, *sent[:rounds])[1] for rounds in (1, 2)]
    assert torch.equal(states[0]["c"], vector(*first))
    assert torch.equal(states[1]["c"], vector(*second))
    assert torch.equal(rule.broadcast(W, states[1])["c"], vector(*second))


def test_fednsam_sends_fedavgms_momentum() -> None:
    rule = made("fednsam", momentum=0.5)
    (w,), state = played(rule, Aggregate(vector(2, 4)))
    assert torch.equal(w, W + vector(2, 4))
    assert torch.equal(rule.broadcast(w, state)["v"], vector(-2, -4))


def test_fedwmsam_follows_how_far_clients_go_up_the_momentum() -> None:
    rule, still = made("fedwmsam", alpha=0.5, alpha_rate=0.5), {"c": vector(0, 0)}
    weights = []
    for disagreement in (2.0, 0.0, 0.4):  # counted as 0.9, 0.1 and itself
        sent = Aggregate(vector(1, 0), population=still, metrics={"steps": 2.0, "disagreement": disagreement}, lr=0.5)
        weights.append(played(rule, sent)[1]["alpha"])
    assert weights == pytest.approx([0.7, 0.3, 0.45])
    assert rule.broadcast(W, rule.init_state(W))["alpha"].tolist() == [0.5]
    with pytest.raises(ConfigError, match=r"alpha_min: 0.5 is not allowed: must be <= alpha_max, 0.3"):
        made("fedwmsam", alpha_min=0.5, alpha_max=0.3)


def test_a_momentum_in_units_of_a_gradient_divides_by_the_rates_really_taken() -> None:
    # Rates 0.5 (1, 0.75, 0.5, 0.25): their sum is 1.25.
    sent = Aggregate(vector(2.5, 5), metrics={"steps": 4.0}, lr=0.5, rate=LocalRate(0.0))
    assert torch.equal(played(made("fedcm"), sent)[1]["m"], vector(-2, -4))
