"""Local optimizers in ordinary training loops: same steps, and the manners of torch.optim."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.objective import Batch, NetworkObjective
from clients.optimizers import OPTIMIZERS, TorchOptimizer, as_torch, build
from clients.optimizers.aesam import AESAM
from clients.optimizers.base import LocalOptimizer, Task
from clients.optimizers.esam import ESAM
from clients.optimizers.fedlesam import FedLESAM
from clients.optimizers.msam import MSAM
from clients.optimizers.sam import SAM
from clients.optimizers.sam_on import SAMON
from clients.optimizers.sgd import SGD
from clients.optimizers.sparse_sam import SparseSAM
from fedsam.config import Component, ConfigError
from fedsam.models.network import Network
from fedsam.seeds import stream
from tests.support.objectives import random_batches

SETTINGS: dict[str, dict[str, Any]] = {
    "esam": {"beta": 0.5, "gamma": 0.6},
    "looksam": {"k": 3},
    "vsam": {"window": 4, "blocks": 2, "warmup_steps": 4},
    "aesam": {"total_steps": 100},
    "sparse_sam": {"num_samples": 4, "steps_per_epoch": 5},
    "m_sharpness_sam": {"m": 3},
}
SCORES = {"fedgmt", "fedsol"}
EXAMPLES = {"esam", "focal_sam", "ksam", "m_sharpness_sam", "sampa", "sparse_sam"}
LOSSES = {"zosam"}
USUAL = [
    (name, backward)
    for name in sorted(set(OPTIMIZERS) - SCORES - EXAMPLES)
    for backward in (True, False)
    if name not in LOSSES or not backward
]
BATCHES = random_batches(12)
TASK = Task(steps=20, class_counts=(5, 3, 2), peek=lambda n: BATCHES[0][:n])


def rule(name: str, **settings: Any) -> LocalOptimizer:
    return build(Component(name=name, **{"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, **SETTINGS.get(name, {}), **settings}))


class Net(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 6), norm, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.tanh(self.norm(self.first(x))))
        return scores


def net(norm: nn.Module | None = None) -> Net:
    torch.manual_seed(0)
    return Net(norm or nn.GroupNorm(2, 6)).double()


def batch_net() -> tuple[Net, nn.BatchNorm1d]:
    norm = nn.BatchNorm1d(6).double()
    return net(norm), norm


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def by_example(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: cross_entropy(model(x), y, reduction="none")


def usual(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        model.zero_grad()
        loss = mean_loss(model, batch)
        loss.backward()
        return loss

    return closure


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch.x), batch.y)


def train(model: nn.Module, optimizer: Any, batches: Iterable[Batch] = BATCHES) -> list[Tensor]:
    """A stock training loop; the weights after each step."""
    trace = []
    for batch in batches:
        optimizer.step(usual(model, batch))
        trace.append(vector(model))
    return trace


def train_by_example(model: nn.Module, optimizer: TorchOptimizer, batches: Iterable[Batch] = BATCHES) -> list[Tensor]:
    trace = []
    for batch in batches:
        optimizer.step(by_example(model), (batch.x, batch.y))
        trace.append(vector(model))
    return trace


def functional(method: LocalOptimizer) -> tuple[list[Tensor], list[Tensor]]:
    """Weights after each step, and mean losses, of the rule itself."""
    network = Network(net(), dtype=torch.float64)
    w, objective, trace, losses = network.initial, NetworkObjective(network), [], []
    state = method.init(w, TASK)
    for step, batch in enumerate(BATCHES):
        w, state, loss = method.step(w, state, objective, batch, stream(3, "as_torch", step))
        trace.append(w)
        losses.append(loss.mean())
    return trace, losses


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - SCORES))
def test_steps_are_those_of_the_rule(name: str) -> None:
    method, model = rule(name), net()
    optimizer = as_torch(method, model, task=TASK, seed=3)
    want, want_losses = functional(method)
    for batch, w, loss in zip(BATCHES, want, want_losses, strict=True):
        assert torch.equal(optimizer.step(by_example(model), (batch.x, batch.y)), loss)
        assert torch.equal(vector(model), w)


@pytest.mark.parametrize(("name", "backward"), USUAL)
def test_a_usual_closure_is_enough_for_methods_that_need_only_mean_gradients(name: str, backward: bool) -> None:
    method, model = rule(name), net()
    optimizer = as_torch(method, model, task=TASK, seed=3)
    want, want_losses = functional(method)
    for batch, w, loss in zip(BATCHES, want, want_losses, strict=True):
        closure = usual(model, batch) if backward else partial(mean_loss, model, batch)
        assert torch.allclose(optimizer.step(closure), loss, rtol=1e-12)
        assert torch.allclose(vector(model), w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_methods_that_look_at_examples_say_which_closure_they_expect(name: str) -> None:
    model = net()
    optimizer = as_torch(rule(name, **({"beta": 1.0} if name == "esam" else {})), model, task=TASK)
    before = vector(model)
    with pytest.raises(ConfigError, match=r"closure\(x, y\) returns the losses \(B,\)"):
        train(model, optimizer)
    assert torch.equal(vector(model), before)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_methods_that_need_class_scores_say_so(name: str) -> None:
    model = net()
    with pytest.raises(ConfigError, match="needs class scores"):
        train_by_example(model, as_torch(rule(name), model, task=TASK))


def test_losses_alone_cannot_come_from_a_closure_that_calls_backward() -> None:
    model = net()
    with pytest.raises(ConfigError, match="ZOSAM needs losses without a gradient"):
        train(model, as_torch(rule("zosam"), model))


REFERENCES: list[tuple[dict[str, Any], Callable[..., torch.optim.Optimizer], dict[str, Any]]] = [
    ({}, torch.optim.SGD, {}),
    ({"momentum": 0.9, "weight_decay": 0.01}, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    ({"momentum": 0.9, "nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ({"base": "adamw", "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
]


@pytest.mark.parametrize(("ours", "theirs", "settings"), REFERENCES)
def test_base_steps_are_those_of_torch_under_a_scheduler(
    ours: dict[str, Any], theirs: Callable[..., torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    traces: list[Tensor] = []
    rates: list[list[Any]] = []
    models = net(), net()
    pairs = (as_torch(SGD(lr=0.1, **ours), models[0]), theirs(models[1].parameters(), lr=0.1, **settings))
    for model, optimizer in zip(models, pairs, strict=True):
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(BATCHES))
        trace = []
        for batch in BATCHES:
            trace += train(model, optimizer, [batch])
            scheduler.step()
            rates.append(scheduler.get_last_lr())
        traces.append(torch.stack(trace))
    assert rates[: len(BATCHES)] == rates[len(BATCHES) :]
    assert rates[-1] == [0.0]
    assert torch.allclose(traces[0], traces[1], rtol=1e-10, atol=1e-12)


def test_gradients_that_are_there_already_serve_a_step_without_closure() -> None:
    models = net(), net()
    ours, theirs = as_torch(SGD(lr=0.1), models[0]), torch.optim.SGD(models[1].parameters(), lr=0.1)
    for batch in BATCHES:
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            usual(model, batch)()
            optimizer.step()
    assert torch.allclose(vector(models[0]), vector(models[1]), rtol=1e-12)
    before = vector(models[0])
    with pytest.raises(ConfigError, match=r"SAM needs more passes than one at the weights: call step\(closure\)"):
        as_torch(SAM(), models[0]).step()
    assert torch.equal(vector(models[0]), before)


@pytest.mark.parametrize("name", ["sgd", "msam", "fsam", "vsam", "esam", "looksam", "sampa", "aesam", "sparse_sam", "gsam"])
@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_a_training_goes_on_to_the_bit_after_a_round_trip(name: str, base: str) -> None:
    model = net()
    optimizer = as_torch(rule(name, base=base), model, task=TASK, seed=3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(BATCHES))
    train_by_example(model, optimizer, BATCHES[:7])
    scheduler.step()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    want = train_by_example(model, optimizer, BATCHES[7:])

    other = net()
    resumed = as_torch(rule(name, base=base, lr=0.5), other, task=TASK)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    got = train_by_example(other, resumed, BATCHES[7:])
    assert torch.equal(torch.stack(got), torch.stack(want))


def test_the_state_of_another_method_is_refused() -> None:
    saved = as_torch(SAM(), net()).state_dict()
    with pytest.raises(ConfigError, match="the state of 'SAM' is not allowed: this is 'MSAM'"):
        as_torch(MSAM(), net()).load_state_dict(saved)
    with pytest.raises(ConfigError, match="the state of None is not allowed"):
        as_torch(SAM(), net()).load_state_dict(torch.optim.SGD(net().parameters()).state_dict())


@pytest.mark.parametrize("name", ["sgd", "sam", "msam", "asam", "adamw"])
def test_autocast_around_the_step_is_autocast_inside_the_closure(name: str) -> None:
    # Around the step, torch would give the second pass the half-precision weights of the first.
    method = rule("sam", base="adamw") if name == "adamw" else rule(name)
    batches = [Batch(batch.x.float(), batch.y) for batch in BATCHES]
    traces = []
    for inside in (True, False):
        model = net().float()
        optimizer = as_torch(method, model)
        for batch in batches:

            def closure(batch: Batch = batch, model: nn.Module = model, inside: bool = inside) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=inside or torch.is_autocast_enabled("cpu")):
                    loss = cross_entropy(model(batch.x), batch.y)
                loss.backward()
                return loss

            with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
                optimizer.step(closure)
        traces.append(vector(model))
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(traces[0], traces[1])
    assert torch.isfinite(traces[0]).all()


def same(a: nn.BatchNorm1d, b: nn.BatchNorm1d) -> bool:
    """Equal running statistics."""
    return all(torch.equal(x, y) for x, y in zip(a.buffers(), b.buffers(), strict=True))


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - SCORES - {"m_sharpness_sam", "sampa"}))
def test_batch_normalization_counts_a_batch_once(name: str) -> None:
    (model, norm), batch = batch_net(), BATCHES[0]
    optimizer = as_torch(rule(name), model, task=TASK, seed=3)
    optimizer.step(by_example(model), (batch.x, batch.y))
    assert norm.num_batches_tracked == 1
    assert norm.track_running_stats
    assert all(m.training for m in model.modules())
    if name not in {"fedlesam", "msam", "zosam"}:  # the only pass of these may be at other weights
        reference, expected = batch_net()
        reference(batch.x)
        assert same(norm, expected)


def test_layers_in_evaluation_mode_stay_so() -> None:
    model, norm = batch_net()
    norm.eval()
    before = copy.deepcopy(norm)
    optimizer = as_torch(rule("sparse_sam"), model, task=TASK)
    train_by_example(model, optimizer)
    assert same(norm, before)
    assert [m.training for m in model.modules()] == [True, True, False, True]


def test_masked_tensors_take_no_part_whoever_calls_backward() -> None:
    model, seen = net(), []
    optimizer = as_torch(SAMON(lr=0.1), model)

    def closure() -> Tensor:
        loss = usual(model, BATCHES[0])()
        seen.append([name for name, p in model.named_parameters() if p.grad is not None])
        return loss

    optimizer.step(closure)
    assert seen == [["norm.weight", "norm.bias"], [name for name, _ in model.named_parameters()]]
    assert all(p.requires_grad for p in model.parameters())


def test_parameters_stay_where_they_are_and_are_never_left_perturbed() -> None:
    model = net()
    optimizer = as_torch(SAM(lr=0.1, rho=0.5), model)
    addresses, seen = [p.data_ptr() for p in model.parameters()], []

    def closure() -> Tensor:
        seen.append(vector(model))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return cross_entropy(model(BATCHES[0].x), BATCHES[0].y)

    optimizer.step(closure)
    assert (seen[1] - seen[0]).norm() == pytest.approx(0.5)
    before = vector(model)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert torch.equal(vector(model), before)
    assert [p.data_ptr() for p in model.parameters()] == addresses


def test_weights_changed_between_steps_are_the_weights() -> None:
    models = net(), net()
    optimizers = [as_torch(SAM(lr=0.1), model) for model in models]
    train(models[0], optimizers[0], BATCHES[:2])
    models[1].load_state_dict(models[0].state_dict())
    assert torch.equal(train(models[0], optimizers[0], BATCHES[2:3])[0], train(models[1], optimizers[1], BATCHES[2:3])[0])


def test_hyperparameters_are_those_of_the_group() -> None:
    model, other = net(), net()
    optimizer = as_torch(SAM(lr=0.1, rho=0.0), model)
    optimizer.param_groups[0] |= {"lr": 0.2, "rho": 0.5}
    assert torch.equal(train(model, optimizer)[-1], train(other, as_torch(SAM(lr=0.2, rho=0.5), other))[-1])


@pytest.mark.parametrize("given", ["model", "parameters", "named"])
def test_bare_parameters_do_where_no_more_is_needed(given: str) -> None:
    model, other = net(), net()
    tensors: Any = {"model": model, "parameters": model.parameters(), "named": model.named_parameters()}[given]
    assert torch.equal(train(model, as_torch(rule("gcsam"), tensors))[-1], train(other, as_torch(rule("gcsam"), other))[-1])


def test_what_only_names_or_the_model_tell_is_asked_for() -> None:
    model = net()
    with pytest.raises(ConfigError, match="needs the names of tensors: call as_torch with the model"):
        train(model, as_torch(rule("asam"), model.parameters()))
    train(model, as_torch(rule("asam"), model.named_parameters()))
    train(model, as_torch(rule("asam", variant="elementwise"), model.parameters()))
    for tensors in (model.parameters(), model.named_parameters()):
        with pytest.raises(ConfigError, match="needs to know the normalization layers: call as_torch with the model"):
            train(model, as_torch(SAMON(), tensors))
    with pytest.raises(ConfigError, match="needs a pass in evaluation mode: call as_torch with the model"):
        train_by_example(model, as_torch(SparseSAM(steps_per_epoch=5), model.parameters(), task=TASK))


def test_parameters_that_make_no_vector_are_refused() -> None:
    model = net()
    mixed = [model.first.weight, model.last.float().weight]
    with pytest.raises(ConfigError, match=r"torch\.float32 on cpu, torch\.float64 on cpu is not allowed: one type on one device"):
        as_torch(SAM(), mixed)
    with pytest.raises(ConfigError, match="nothing to train is not allowed"):
        as_torch(SAM(), nn.ReLU())
    groups: Any = [{"params": list(model.parameters()), "lr": 0.1}]
    with pytest.raises(ConfigError, match="parameter groups are not allowed"):
        as_torch(SAM(), groups)
    with pytest.raises(ConfigError, match="a second group is not allowed"):
        as_torch(SAM(), net()).add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(ConfigError, match="total_steps: must be given"):
        as_torch(AESAM(), net())


def test_frozen_tensors_are_left_alone() -> None:
    model = net()
    model.first.weight.requires_grad_(False)
    before = model.first.weight.clone()
    optimizer = as_torch(rule("sam"), model)
    model.last.bias.requires_grad_(False)  # later: no gradient, but the weight decay of its group
    train(model, optimizer)
    assert torch.equal(model.first.weight, before)


DAMPED = {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}


class Heads(nn.Module):
    """A trunk with two heads, of which a pass uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Tanh())
        self.heads, self.used = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)]), 0

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.heads[self.used](self.trunk(x))
        return scores


def heads() -> Heads:
    torch.manual_seed(0)
    return Heads().double()


@pytest.mark.parametrize(("name", "backward"), USUAL)
@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_tensors_without_a_gradient_and_their_state_are_left_alone(name: str, backward: bool, base: str) -> None:
    model = heads()
    before = vector(model.heads[1])
    optimizer = as_torch(rule(name, base=base), model, task=TASK)
    for batch in BATCHES:
        optimizer.step(usual(model, batch) if backward else partial(mean_loss, model, batch))
    assert torch.equal(vector(model.heads[1]), before)
    momentum = optimizer.state["rule"]["state"].get("v" if base == "sgd" else "m")
    if momentum is not None:
        unused = momentum[-len(before) :]
        assert not unused.any()


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        *REFERENCES,
        (DAMPED, torch.optim.SGD, DAMPED),
    ],
)
def test_tensors_used_now_and_then_take_the_steps_of_torch(
    ours: dict[str, Any], theirs: Callable[..., torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    models = heads(), heads()
    optimizers = as_torch(SGD(lr=0.1, **ours), models[0]), theirs(models[1].parameters(), lr=0.1, **settings)
    for batch, used in zip(BATCHES, (0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 0), strict=True):
        for model, optimizer in zip(models, optimizers, strict=True):
            model.used = used
            train(model, optimizer, [batch])
        assert torch.allclose(vector(models[0]), vector(models[1]), rtol=1e-10, atol=1e-12)


def test_tensors_frozen_later_stay_and_those_thawed_later_are_refused() -> None:
    model = heads()
    model.heads[1].requires_grad_(False)
    optimizer = as_torch(rule("sam"), model)
    train(model, optimizer, BATCHES[:3])
    model.trunk.requires_grad_(False)
    frozen = vector(model.trunk)
    train(model, optimizer, BATCHES[3:6])
    assert torch.equal(vector(model.trunk), frozen)
    model.trunk.requires_grad_(True)
    train(model, optimizer, BATCHES[6:9])
    assert not torch.equal(vector(model.trunk), frozen)
    model.heads[1].bias.requires_grad_(True)
    before = vector(model)
    with pytest.raises(ConfigError, match=r"model: heads\.1\.bias did not require gradients when as_torch was called: call it again"):
        train(model, optimizer)
    assert torch.equal(vector(model), before)


def test_a_part_of_the_model_is_saved_alone() -> None:
    model, file = heads(), io.BytesIO()
    optimizer = as_torch(SAM(), nn.ModuleList([model, nn.Linear(500, 500).double()]))
    optimizer.step(lambda: mean_loss(model, BATCHES[0]))
    torch.save(model.trunk, file)
    assert len(file.getvalue()) < 5000


class RunningMean(nn.Module):
    """A normalization layer of a user's own, with running statistics that torch does not know."""

    mean: Tensor
    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.lerp_(x.mean(dim=0), 0.1)
            self.passes += 1
        return x - x.mean(dim=0)


@pytest.mark.parametrize("name", ["sgd", "sam", "multistep_sam"])
def test_statistics_of_ones_own_layers_count_a_batch_once(name: str) -> None:
    norm = RunningMean().double()
    model = net(norm)
    optimizer = as_torch(rule(name), model)
    reference = copy.deepcopy(model)
    train(model, optimizer, BATCHES[:1])
    reference(BATCHES[0].x)
    assert norm.passes == 1
    assert isinstance(reference.norm, RunningMean) and torch.equal(norm.mean, reference.norm.mean)
    train(model, optimizer, BATCHES[1:3])
    assert norm.passes == 3


@pytest.mark.parametrize("name", ["sgd", "sam", "esam", "multistep_sam"])
def test_a_scaler_scales_every_pass_and_an_overflow_leaves_out_the_step(name: str) -> None:
    model, plain = net(), net()
    optimizer, reference = as_torch(rule(name), model), as_torch(rule(name), plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
    for batch in BATCHES[:3]:
        loss = optimizer.step(by_example(model), (batch.x, batch.y), scaler=scaler)
        scaler.update()
        assert torch.equal(loss, reference.step(by_example(plain), (batch.x, batch.y)))
    assert torch.allclose(vector(model), vector(plain), rtol=1e-12)
    before, passes = vector(model), []

    def overflowing(x: Tensor, y: Tensor) -> Tensor:
        passes.append(vector(model))
        return by_example(model)(x, y) * (1.0 if name != "sgd" and len(passes) == 1 else float("inf"))

    steps = optimizer.state["rule"]["steps"]
    optimizer.step(overflowing, (BATCHES[3].x, BATCHES[3].y), scaler=scaler)
    scaler.update()
    assert torch.equal(vector(model), before)
    assert optimizer.state["rule"]["steps"] == steps
    assert scaler.get_scale() == 2.0**9


def test_a_scaled_loss_in_the_closure_is_refused() -> None:
    model = net()
    optimizer, scaler, before = as_torch(SAM(lr=0.1), model), torch.amp.GradScaler("cpu"), vector(model)

    def scaled() -> Tensor:
        optimizer.zero_grad()
        loss = mean_loss(model, BATCHES[0])
        scaler.scale(loss).backward()
        return loss

    with pytest.raises(ConfigError, match=r"closure: calls GradScaler\.scale, which is not allowed: .* step\(closure, scaler=scaler\)"):
        optimizer.step(scaled)
    with pytest.raises(ConfigError, match="SAM needs the loss alone where a scaler is given: do not call backward"):
        optimizer.step(usual(model, BATCHES[0]), scaler=scaler)
    with pytest.raises(ConfigError, match=r"closure: needed with a scaler"):
        optimizer.step(scaler=scaler)
    assert torch.equal(vector(model), before)


def test_a_method_of_one_pass_needs_no_closure_with_a_scaler() -> None:
    model, plain = net(), net()
    optimizer, reference = as_torch(SGD(lr=0.1), model), torch.optim.SGD(plain.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for batch in BATCHES[:3]:
        optimizer.zero_grad()
        scaler.scale(mean_loss(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        usual(plain, batch)()
        reference.step()
    assert torch.allclose(vector(model), vector(plain), rtol=1e-12)


def test_a_model_that_moved_is_noticed() -> None:
    model = net()
    optimizer = as_torch(SAM(), model)
    model.float()
    with pytest.raises(ConfigError, match="call as_torch last"):
        train(model, optimizer)


def test_wrong_closures_are_refused() -> None:
    model, batch = net(), BATCHES[0]
    optimizer = as_torch(ESAM(gamma=0.5), model)
    with pytest.raises(ConfigError, match=r"a loss of shape \(\) for \(8,\) examples is not allowed"):
        optimizer.step(lambda x, y: cross_entropy(model(x), y), (batch.x, batch.y))

    def backward(x: Tensor, y: Tensor) -> Tensor:
        losses = cross_entropy(model(x), y, reduction="none")
        losses.mean().backward()
        return losses

    with pytest.raises(ConfigError, match="needs the losses of single examples"):
        optimizer.step(backward, (batch.x, batch.y))
    with pytest.raises(ConfigError, match="returned a loss without a graph, and no gradient"):
        as_torch(FedLESAM(), model).step(lambda: 0.5)
