"""Local training: one step per batch, inputs unchanged, costs measured."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.corrections import NoCorrection, Proximal
from clients.corrections.base import LocalOutcome
from clients.local import LocalResult, local_train
from clients.objective import Batch, NetworkObjective
from clients.optimizers import SAM, SGD
from clients.optimizers.base import LocalOptimizer, Task
from fedsam.models.network import Network
from fedsam.schedules import LocalRate


def setting() -> tuple[Network, list[Batch]]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    batches = [Batch(torch.randn(n, 3, generator=generator), torch.randint(2, (n,), generator=generator)) for n in (5, 5, 2)]
    return Network(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))), batches


def trained(optimizer: LocalOptimizer, mu: float | None = None, lr_factor: float = 1.0) -> LocalResult:
    network, batches = setting()
    correction = NoCorrection() if mu is None else Proximal(mu=mu)
    before = network.initial.clone()
    result = local_train(
        network.initial, optimizer, correction, NetworkObjective(network), batches, np.random.default_rng(0), lr_factor=lr_factor
    )
    assert torch.equal(network.initial, before)
    return result


def test_sgd_is_torch_sgd() -> None:
    network, batches = setting()
    ours = trained(SGD(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)).x
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    nn.utils.vector_to_parameters(network.initial.clone(), module.parameters())
    reference = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for batch in batches:
        reference.zero_grad()
        nn.functional.cross_entropy(module(batch.x), batch.y).backward()
        reference.step()
    assert torch.allclose(ours, nn.utils.parameters_to_vector(module.parameters()), atol=1e-6)


def test_sam_without_radius_is_sgd_to_the_bit() -> None:
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    assert torch.equal(trained(SAM(rho=0.0, **settings)).x, trained(SGD(**settings)).x)
    assert not torch.equal(trained(SAM(rho=0.1, **settings)).x, trained(SGD(**settings)).x)


def test_the_rate_falls_over_the_steps_of_a_round() -> None:
    network, batches = setting()
    w, objective = network.initial.clone(), NetworkObjective(network)
    for rate, batch in zip((0.1, 0.08, 0.06), batches, strict=True):  # towards 0.04, which a fourth step would have
        w = w - rate * objective.grad(w, batch)[0]
    task, falling = Task(steps=3), LocalRate(0.4)
    rng = np.random.default_rng(0)
    result = local_train(network.initial, SGD(lr=0.1), NoCorrection(), objective, batches, rng, task=task, rate=falling)
    assert torch.allclose(result.x, w, rtol=0, atol=1e-6)
    assert LocalOutcome(w, w, {}, 3, SGD(lr=0.1), falling).reach == pytest.approx(0.24)
    with pytest.raises(ValueError, match="needs the number of local steps: the task has 0, there were 3"):
        local_train(network.initial, SGD(), NoCorrection(), objective, batches, rng, rate=falling)


def test_costs_are_counted() -> None:
    sgd, sam = trained(SGD()), trained(SAM())
    assert (sgd.steps, sgd.examples, sgd.gradient_evaluations, sgd.forward_evaluations) == (3, 12, 12, 0)
    assert (sam.steps, sam.examples, sam.gradient_evaluations, sam.forward_evaluations) == (3, 12, 24, 0)


def test_the_schedule_scales_the_learning_rate() -> None:
    assert torch.equal(trained(SGD(lr=0.2), lr_factor=0.5).x, trained(SGD(lr=0.1)).x)


def test_the_proximal_term_holds_the_client_back() -> None:
    network, _ = setting()
    free, held = trained(SGD()).x - network.initial, trained(SGD(), mu=5.0).x - network.initial
    assert held.norm() < free.norm()


def test_the_clip_bounds_each_step() -> None:
    network, _ = setting()
    moved = trained(SGD(lr=1.0, clip_norm=0.01)).x - network.initial
    assert moved.norm() <= 3 * 0.01
    assert torch.equal(trained(replace(SGD(), clip_norm=1e6)).x, trained(SGD()).x)


def test_running_statistics_can_be_those_of_the_last_weights() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    network, batches = Network(module), setting()[1]
    local_train(network.initial, SGD(), NoCorrection(), NetworkObjective(network), batches, np.random.default_rng(0))
    once = network.buffers.clone()
    network.buffers = Network(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))).buffers
    rng, optimizer = np.random.default_rng(0), SAM()
    again = local_train(network.initial, optimizer, NoCorrection(), NetworkObjective(network), [], rng, statistics_batches=batches)
    assert torch.allclose(network.buffers, once)  # the first layer's inputs do not depend on weights
    assert torch.equal(again.x, network.initial)
    assert (again.forward_evaluations, again.gradient_evaluations) == (12, 0)
