"""What every local optimizer of the table must hold; a new line in OPTIMIZERS is enrolled here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clients.objective import Batch, Objective
from clients.optimizers import OPTIMIZERS, build
from clients.optimizers.base import LocalOptimizer, State, Task
from experiments import passes
from fedsam.config import Part
from tests.objectives import Quadratic, Softmax, layout_of, random_batches

METHODS = tuple(OPTIMIZERS)
BASES: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9, "weight_decay": 0.01}, "adamw": {"base": "adamw", "lr": 0.02}}

# Settings that bring every phase of a method into a few steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "esam": {"beta": 0.5, "gamma": 0.6},
    "looksam": {"k": 3},
    "multistep_sam": {"ascent_steps": 3},
    "vsam": {"window": 4, "blocks": 2, "warmup_steps": 4},
    "aesam": {"total_steps": 100},
    "sparse_sam": {"num_samples": 4, "steps_per_epoch": 5},
    "m_sharpness_sam": {"m": 3},
    "zosam": {"num_probes": 2},
    "warm_sam": {"warmup_rounds": 2},
}

# Settings that leave the base optimizer and nothing else; without an entry: rho = 0.
REDUCED: dict[str, dict[str, Any]] = {
    "sgd": {},
    "esam": {"rho": 0.0, "gamma": 1.0},
    "gsam": {"rho_max": 0.0, "rho_min": 0.0},
    "gmt": {"gamma": 0.0},
    "ksam": {"rho": 0.0, "ascent_share": 1.0, "descent_share": 1.0},
    "warm_sam": {"rho": 0.0, "warmup_rounds": 0},
}
# Sums and differences that cancel in exact arithmetic; all others equal their base to the bit.
ROUNDED = {"focal_sam", "gsam", "gmt", "ksam", "m_sharpness_sam", "multistep_sam"}
# SAMPa looks ahead along the last gradient whatever rho is; its first step is a base step.
REDUCES_FIRST_STEP_ONLY = {"sampa"}


def make(name: str, base: str = "sgd", **settings: Any) -> LocalOptimizer:
    """A method on a base optimizer; the settings must pass the validation of an experiment."""
    return build(Part(name=name, **{"lr": 0.05, **BASES[base], **settings}))


def task(examples: Batch) -> Task:
    """A round of which everything is known."""
    return Task(round=1, rounds=10, steps=20, class_counts=(5, 3, 2), peek=lambda n: Batch(examples.x[..., :n, :], examples.y[..., :n]))


def start(features: int = 3, classes: int = 3, seed: int = 7) -> Tensor:
    """Weights of `Softmax` to start from."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * features + classes * features + classes, generator=generator, dtype=torch.float64)


def train(
    optimizer: LocalOptimizer, objective: Objective, w: Tensor, batches: Sequence[Batch], seed: int = 0
) -> tuple[Tensor, State, list[Tensor]]:
    """Local training: the weights after each step, from a fresh state, and the last state."""
    rng, state, trace, losses = np.random.default_rng(seed), optimizer.init(w, task(batches[0])), [], []
    for batch in batches:
        w, state, loss = optimizer.step(w, state, objective, batch, rng)
        trace.append(w)
        losses.append(loss)
    return torch.stack(trace), state, losses


def snapshot(state: State) -> dict[str, Any]:
    """A copy that later changes in place cannot reach."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}


def same(a: object, b: object) -> bool:
    """Equality of two state entries, to the bit."""
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or bool(a == b)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_without_a_perturbation_it_is_its_base(name: str, base: str) -> None:
    batches = random_batches(1 if name in REDUCES_FIRST_STEP_ONLY else 12)
    reduced = make(name, base, **{**SETTINGS.get(name, {}), **REDUCED.get(name, {"rho": 0.0})})
    # MSAM decays after the Adam step, which is another optimizer.
    plain = replace(reduced, weight_decay=0.0) if name == "msam" and base == "adamw" else reduced
    got, _, got_losses = train(plain, Softmax(), start(), batches)
    shared = {f.name: getattr(plain, f.name) for f in fields(LocalOptimizer)}
    want, _, want_losses = train(OPTIMIZERS["sgd"](**shared), Softmax(), start(), batches)
    if name in ROUNDED:
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)
    else:
        assert torch.equal(got, want)
    assert torch.allclose(torch.stack(got_losses), torch.stack(want_losses), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_are_unchanged(name: str) -> None:
    optimizer, objective, rng = make(name, **SETTINGS.get(name, {})), Softmax(), np.random.default_rng(0)
    batches, w = random_batches(12), start()
    state = optimizer.init(w, task(batches[0]))
    for batch in batches:
        before = w.clone(), snapshot(state), batch.x.clone(), batch.y.clone()
        new_w, new_state, _ = optimizer.step(w, state, objective, batch, rng)
        assert torch.equal(w, before[0])
        assert state.keys() == before[1].keys()
        assert all(same(state[key], before[1][key]) for key in state)
        assert torch.equal(batch.x, before[2])
        assert torch.equal(batch.y, before[3])
        w, state = new_w, new_state


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_result(name: str) -> None:
    optimizer, batches = make(name, **SETTINGS.get(name, {})), random_batches(12)
    first, _, _ = train(optimizer, Softmax(), start(), batches, seed=3)
    again, _, _ = train(optimizer, Softmax(), start(), batches, seed=3)
    assert torch.equal(first, again)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_it_minimizes_a_quadratic(name: str, base: str) -> None:
    objective = Quadratic([0.5, 1.0, 2.0, 4.0], layout_of(("norm.weight", (2,)), ("fc.weight", (2,))))
    small = {f.name: 0.01 for f in fields(OPTIMIZERS[name]) if f.name in ("rho", "rho_max", "rho_min")}
    optimizer = make(name, base, **{**SETTINGS.get(name, {}), **small, "momentum": 0.5, "weight_decay": 0.0, "lr": 0.05})
    lowest = torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    batch = Batch(lowest.expand(6, 4), torch.arange(6) % 3)
    w = torch.zeros(4, dtype=torch.float64)
    trace, _, losses = train(optimizer, objective, w, [batch] * 200)
    assert losses[0].mean() > 4
    assert objective.losses(trace[-1], batch).mean() < 1e-3


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_a_client_axis_equals_a_loop_over_clients(name: str, base: str) -> None:
    # Clients that take their steps together are in the same phase; vSAM's are so in its warm-up.
    steps = SETTINGS["vsam"]["warmup_steps"] if name == "vsam" else 8
    optimizer = make(name, base, **SETTINGS.get(name, {}))
    weights = [start(seed=seed) for seed in (1, 2, 3)]
    batches = [random_batches(steps, seed=seed) for seed in (4, 5, 6)]
    together = [Batch(torch.stack([b.x for b in row]), torch.stack([b.y for b in row])) for row in zip(*batches, strict=True)]
    cohort, _, losses = train(optimizer, Softmax(), torch.stack(weights), together)
    assert cohort.shape == (steps, 3, 18)
    assert losses[0].shape == (3, 8)
    for client in range(3):
        alone, _, alone_losses = train(optimizer, Softmax(), weights[client], batches[client])
        assert torch.allclose(cohort[:, client], alone, rtol=1e-9, atol=1e-11)
        assert torch.allclose(torch.stack(losses)[:, client], torch.stack(alone_losses), rtol=1e-9, atol=1e-11)


# Settings with which the formulas are exact.
COSTED: dict[str, dict[str, Any]] = {
    "esam": {"beta": 0.5, "gamma": 0.5},  # half of 12 examples are a whole number
    "sparse_sam": {"num_samples": 4},  # a refresh for every round of 20 steps
}


@pytest.mark.parametrize("name", METHODS)
def test_measured_cost_is_the_documented_one(name: str) -> None:
    optimizer, batches = make(name, **COSTED.get(name, SETTINGS.get(name, {}))), random_batches(120, 12)
    # Sixty steps are whole periods of all methods.
    few = batches[: passes.settled(optimizer) + 60]
    got, letters = passes.measured(optimizer, Softmax(), start(), few, task(batches[0]))
    want = passes.documented(optimizer, letters)
    assert (got.forward, got.backward) == pytest.approx((want.forward, want.backward))


class NoSync(TorchFunctionMode):
    """Fails on operations that make the host wait for a value, or whose shape depends on values."""

    READS = ("item", "tolist", "numpy", "cpu", "equal", "allclose", "is_nonzero")
    SHAPES = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount")
    SPECIAL = ("__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__", "__format__")
    FORBIDDEN = frozenset(READS + SHAPES + SPECIAL)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in self.FORBIDDEN, f"{name} waits for the device"
        assert name != "__getitem__" or not is_mask(args[1]), "the shape of what a mask selects depends on values"
        return func(*args, **(kwargs or {}))


def is_mask(index: Any) -> bool:
    """Whether an index holds a tensor of flags."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


@pytest.mark.parametrize("name", METHODS)
def test_a_phase_never_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    advance, phases = OPTIMIZERS[name].advance, set()

    def guarded(self: LocalOptimizer, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> Any:
        phases.add(phase)
        with NoSync():
            return advance(self, w, state, objective, batch, phase)

    monkeypatch.setattr(OPTIMIZERS[name], "advance", guarded)
    train(make(name, clip_norm=1.0, **SETTINGS.get(name, {})), Softmax(), start(), random_batches(20))
    assert phases


@pytest.mark.parametrize("read", [float, bool, Tensor.item, Tensor.tolist, lambda x: x[x > 0], lambda x: 1 if x > 0 else 0])
def test_the_guard_notices_a_read_back(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError), NoSync():
        read(torch.ones(()))


@pytest.mark.parametrize("name", METHODS)
def test_a_kept_state_goes_on_at_new_weights(name: str) -> None:
    optimizer, batches = make(name, **SETTINGS.get(name, {})), random_batches(12)
    _, state, _ = train(optimizer, Softmax(), start(), batches)
    w, rng = start(seed=8), np.random.default_rng(1)
    state = optimizer.resume(state, w, task(batches[0]))
    for batch in batches:
        w, state, _ = optimizer.step(w, state, Softmax(), batch, rng)
    assert torch.isfinite(w).all()


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_number_of_steps_is_not_degenerate(name: str) -> None:
    reason = OPTIMIZERS[name]().degenerate(0)
    assert reason is None or name == "esam"  # whose defaults are SAM, however many steps there are
