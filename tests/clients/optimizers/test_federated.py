"""Local optimizers that only a federation gives a meaning: steps on L = |w|^2 / 2 worked out by hand, where the gradient is w."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.corrections.base import Correction
from clients.local import LocalResult, local_train
from clients.objective import Batch, NetworkObjective
from clients.optimizers.base import LocalOptimizer, State, Task
from clients.optimizers.fedgf import FedGF
from clients.optimizers.fedgmt import FedGMT
from clients.optimizers.fedlesam import FedLESAM
from clients.optimizers.fednsam import FedNSAM
from clients.optimizers.fedsmoo import FedSMOO
from clients.optimizers.fedsol import FedSOL, movement
from clients.optimizers.fedwmsam import FedWMSAM
from clients.optimizers.mixed import Mixed
from clients.optimizers.warm_sam import WarmSAM
from fedsam.models.network import Network
from tests.support.objectives import Quadratic, Softmax, at_origin, layout_of, random_batches

W = torch.tensor([3.0, 4.0], dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def stepped(optimizer: LocalOptimizer, **terms: Tensor) -> tuple[Tensor, State]:
    state = optimizer.init(W, Task(round=3, terms=terms))
    w, state, _ = optimizer.step(W, state, Quadratic([1.0, 1.0]), at_origin(), np.random.default_rng(0))
    return w, state


def close(got: Tensor, *want: float) -> bool:
    return torch.allclose(got, vector(*want), rtol=0, atol=1e-9)


def test_lesam_takes_its_gradient_one_radius_back_along_the_global_move() -> None:
    # e = 0.5 (0, 2) / 2 = (0, 0.5): the gradient is (3, 4.5).
    w, _ = stepped(FedLESAM(lr=0.1, rho=0.5, norm_eps=1e-15), ascent=vector(0, 2))
    assert close(w, 3 - 0.3, 4 - 0.45)
    assert close(stepped(FedLESAM(lr=0.1, rho=0.5), ascent=vector(0, 0))[0], 2.7, 3.6)


def test_fednsam_looks_ahead_along_the_momentum_and_climbs_back() -> None:
    # The momentum is (0, -2): w + 0.25 (0, -2) + 0.5 (0, 1) is w again, and w + 0.5 (0, -2) + 0.5 (0, 1) is (3, 3.5).
    assert close(stepped(FedNSAM(lr=0.1, rho=0.5, lookahead=0.25, norm_eps=1e-15), ascent=vector(0, 2))[0], 2.7, 3.6)
    assert close(stepped(FedNSAM(lr=0.1, rho=0.5, lookahead=0.5, norm_eps=1e-15), ascent=vector(0, 2))[0], 2.7, 4 - 0.35)


def test_fedwmsam_perturbs_towards_the_start_moved_along_the_momentum() -> None:
    optimizer, objective, rng = FedWMSAM(lr=0.1, rho=0.5, norm_eps=1e-15), Quadratic([1.0, 1.0]), np.random.default_rng(0)
    state = optimizer.init(W, Task(terms={"q": vector(-0.3, 0)}))
    w, state, _ = optimizer.step(W, state, objective, at_origin(), rng)
    assert close(w, 2.7, 3.6)  # no direction yet
    # (3, 4) + (-0.3, 0) - (2.7, 3.6) = (0, 0.4): e = (0, 0.5).
    w, state, _ = optimizer.step(w, state, objective, at_origin(), rng)
    assert close(w, 2.7 - 0.27, 3.6 - 0.41)
    assert state["taken"] == 2


def test_smoo_perturbs_along_what_its_dual_leaves_of_the_gradient() -> None:
    # q = (3, 4) - (3, 0) - (0, 3) = (0, 1): e = (0, 0.5), mu becomes (3, 0) + (0, 0.5) - (0, 3).
    w, state = stepped(FedSMOO(lr=0.1, rho=0.5, norm_eps=0.0), mu=vector(3, 0), s=vector(0, 3))
    assert close(w, 3 - 0.3, 4 - 0.45)
    assert close(state["mu"], 3, -2.5)
    assert close(state["e"], 0, 0.5)
    assert close(state["s"], 0, 3)


def test_mixed_does_not_normalize() -> None:
    # g1 = (3, 4), g2 = g1 + 0.5 g1: with equal parts 1.25 g1.
    assert close(stepped(Mixed(lr=0.1, rho=0.5, mix=0.5))[0], 3 - 0.375, 4 - 0.5)


def test_gf_descends_between_the_local_worst_point_and_the_servers() -> None:
    # e = (0.6, 0.8); y = (5, 5) / 4 + 3 / 4 (3.6, 4.8) = (3.95, 4.85).
    w, _ = stepped(FedGF(lr=0.1, rho=1.0), wp=vector(5, 5), share=vector(0.25))
    assert close(w, 3 - 0.395, 4 - 0.485)
    assert close(stepped(FedGF(lr=0.1, rho=1.0))[0], 3 - 0.36, 4 - 0.48)


def test_the_radius_of_warm_sam_grows_with_the_rounds() -> None:
    radii = [WarmSAM(rho=0.1, warmup_rounds=3).radius(round) for round in range(1, 6)]
    assert radii == pytest.approx([0.001, 0.034, 0.067, 0.1, 0.1])  # as the authors' code gives them
    assert [WarmSAM(rho=0.1).radius(round) for round in (1, 2)] == [0.1, 0.1]
    # Round 3 of a warm-up of 4 rounds from 0 to 1: e = 0.5 (0.6, 0.8).
    w, _ = stepped(WarmSAM(lr=0.1, rho=1.0, warmup_start=0.0, warmup_rounds=4, norm_eps=0.0))
    assert close(w, 3 - 0.33, 4 - 0.44)


def test_gmt_descends_on_the_loss_and_the_divergence_from_its_teacher() -> None:
    batch, target = random_batches(1)[0], Softmax()
    generator = torch.Generator().manual_seed(1)
    w, ema = (torch.randn(target.layout.size, generator=generator, dtype=torch.float64) for _ in range(2))
    optimizer = FedGMT(lr=1.0, tau=2.0, gamma=0.5)
    got, _, _ = optimizer.step(w, optimizer.init(w, Task(terms={"ema": ema})), target, batch, np.random.default_rng(0))
    leaf = w.clone().requires_grad_()
    student, teacher = target.logits(leaf, batch) / 2, target.logits(ema, batch) / 2
    divergence = functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    loss = functional.cross_entropy(target.logits(leaf, batch), batch.y) + 0.5 * 4 * divergence
    (g,) = torch.autograd.grad(loss, leaf)
    assert torch.allclose(got, w - g, rtol=0, atol=1e-12)


@pytest.mark.parametrize("adaptive", [True, False])
def test_sol_does_not_perturb_in_the_first_step_of_a_round(adaptive: bool) -> None:
    batches, target = random_batches(2), Softmax()
    w = torch.randn(target.layout.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    optimizer = FedSOL(lr=0.1, rho=1.0, adaptive=adaptive)
    state = optimizer.init(w, Task())
    first, state, _ = optimizer.step(w, state, target, batches[0], np.random.default_rng(0))
    assert torch.allclose(first, w - 0.1 * target.grad(w, batches[0])[0], rtol=0, atol=1e-15)
    second, _, _ = optimizer.step(first, state, target, batches[1], np.random.default_rng(0))
    leaf = first.clone().requires_grad_()
    student, teacher = (target.logits(x, batches[1]) / 3 for x in (leaf, w))
    (g,) = torch.autograd.grad(functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean"), leaf)
    e = g / g.norm() * (movement(first - w, target.layout) if adaptive else 1)
    assert float(e.norm()) > 0.1
    assert torch.allclose(second, first - 0.1 * target.grad(first + e, batches[1])[0], rtol=0, atol=1e-9)


def test_movement_has_norm_1_along_the_first_dimension_of_each_tensor() -> None:
    layout = layout_of(("fc.weight", (2, 2)), ("fc.bias", (2,)), ("scale", ()))
    got = movement(vector(3, 0, -4, 0, 1, 1, -7), layout)
    assert torch.allclose(got, vector(0.6, 0, 0.8, 0, math.sqrt(0.5), math.sqrt(0.5), 1))
    both = movement(torch.stack([vector(3, 0, -4, 0, 1, 1, -7), vector(0, 0, 0, 0, 0, 0, 0)]), layout)
    assert torch.allclose(both[0], got)
    assert not both[1].any()


def test_the_network_distils_as_autograd_does_and_counts_as_one_pass() -> None:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)), dtype=torch.float64)
    target = NetworkObjective(network)
    batch = Batch(torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2)
    w, before = network.initial, network.buffers
    target.begin()
    with target.aside():
        teacher = target.logits(w + 0.5, batch)
    assert torch.equal(network.buffers, before)
    g, losses = target.distilled(w, batch, teacher, temperature=2.0, weight=3.0)
    once = network.buffers
    assert not torch.equal(once, before)
    plain, plain_losses = target.grad(w, batch)
    assert torch.equal(network.buffers, once)
    assert torch.allclose(losses, plain_losses)
    step = 1e-6 * torch.randn(target.layout.size, dtype=torch.float64)

    def divergence(at: Tensor) -> Tensor:
        return functional.kl_div((target.logits(at, batch) / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="batchmean")

    slope = (divergence(w + step) - divergence(w - step)) / 2
    assert torch.allclose((g - plain) @ step, 3 * slope, rtol=1e-5)


OVER_ROUNDS = [FedLESAM(momentum=0.5), FedSMOO(momentum=0.5), FedGF(momentum=0.5), WarmSAM(momentum=0.5, warmup_rounds=9)]


@pytest.mark.parametrize("optimizer", OVER_ROUNDS, ids=lambda optimizer: type(optimizer).__name__)
def test_a_state_kept_over_rounds_gets_what_belongs_to_the_round_anew(optimizer: LocalOptimizer) -> None:
    def trained(number: int, state: State | None) -> LocalResult:
        terms = {name: torch.full((1 if name == "share" else 2,), float(number), dtype=torch.float64) for name in optimizer.needs}
        gives = type("Gives", (Correction,), {"start": lambda self, w, server_payload, client_state: terms})()
        rng = np.random.default_rng(0)
        return local_train(W, optimizer, gives, Quadratic([1.0, 1.0]), [at_origin()], rng, task=Task(round=number), state=state)

    first = trained(1, None)
    second, fresh = trained(2, first.state), trained(2, None)
    assert torch.allclose(second.state["v"], 0.5 * first.state["v"] + fresh.state["v"], rtol=1e-12)
    assert all(torch.equal(torch.as_tensor(second.state[key]), torch.as_tensor(fresh.state[key])) for key in fresh.state if key != "v")
