"""What a local optimizer promises.

Legend: `w: (P,)`; a trace is the weights after each of T steps (T, P).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer, State, Task
from clients.optimizers.sgd import SGD
from experiments.contracts.actors import ONE_MODEL
from experiments.contracts.base import (
    Check,
    CheckedComponent,
    ContractError,
    NotDeclared,
    describe_difference,
    expect,
    expect_deterministic,
    expect_unchanged,
    expect_vector,
    snapshot,
)
from experiments.contracts.objectives import Quadratic, Recorded, Softmax, layout_of, random_batches
from experiments.settings import step_cost
from fedsam.config import ConfigError
from fedsam.messages import client_state

STEPS = 12
# Both base optimizers, set so that momentum and weight decay matter.
BASES: dict[str, dict[str, Any]] = {
    "sgd": {"base": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "adamw": {"base": "adamw", "lr": 0.02},
}
LOWEST = 1e-3  # mean loss that counts as the minimum, from more than 4


@dataclass(frozen=True)
class Training:
    """A few local steps.

    Attributes:
        trace: The weights after each step (T, P).
        state: The last state.
        losses: Per-example losses of each step (T, B).
    """

    trace: Tensor
    state: State
    losses: Tensor


def train(optimizer: LocalOptimizer, objective: Objective, w: Tensor, batches: Sequence[Batch], seed: int = 0) -> Training:
    """Local training from a fresh state."""
    rng, state, trace, losses = np.random.default_rng(seed), optimizer.init(w, task(optimizer, w, batches)), [], []
    for batch in batches:
        w, state, loss = optimizer.step(w, state, objective, batch, rng)
        trace.append(w)
        losses.append(loss)
    return Training(torch.stack(trace), state, torch.stack(losses))


def task(optimizer: LocalOptimizer, w: Tensor, batches: Sequence[Batch]) -> Task:
    """A round of which everything is known; what the optimizer needs of a correction is 0."""
    x, y = torch.cat([batch.x for batch in batches], dim=-2), torch.cat([batch.y for batch in batches], dim=-1)
    return Task(
        round=1,
        rounds=10,
        steps=20,
        class_counts=(5, 3, 2),
        peek=lambda n: Batch(x[..., :n, :], y[..., :n]),
        terms={name: torch.zeros_like(w) for name in optimizer.needs},
    )


def start(seed: int = 7) -> Tensor:
    """Weights of `Softmax` to start from (P,)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(Softmax().layout.size, generator=generator, dtype=torch.float64)


def with_each_base(component: CheckedComponent, **changes: Any) -> Iterator[tuple[str, LocalOptimizer]]:
    """The optimizer on each base optimizer that it takes, by the base's name."""
    for base, settings in BASES.items():
        if base != "sgd":
            with suppress(ConfigError):
                yield base, component.make(**{**settings, **changes})
        else:
            yield base, component.make(settings, **changes)


def a_step_is_complete(component: CheckedComponent) -> None:
    """New weights (P,), a mapping as state, and for each example a loss that one of the step's passes gave."""
    optimizer, w, batches = component.make(BASES["sgd"]), start(), random_batches(STEPS)
    state = optimizer.init(w, task(optimizer, w, batches))
    expect(isinstance(state, Mapping), "`init` to give a mapping", f"a {type(state).__name__}")
    rng = np.random.default_rng(0)
    for number, batch in enumerate(batches, start=1):
        objective = Recorded(Softmax())
        given = optimizer.step(w, state, objective, batch, rng)
        count = f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
        expect(isinstance(given, tuple) and len(given) == 3, "a step to give (weights, state, losses)", count)
        w, state, losses = given
        expect_vector(w, start(), f"the weights after step {number}")
        expect(isinstance(state, Mapping), "the state to be a mapping", f"a {type(state).__name__}")
        expect_vector(losses, torch.zeros(batch.size, dtype=w.dtype), f"the losses of step {number}")
        expect(objective.has(losses), f"the losses of step {number} to be those of its passes", "others")


def reductions(component: CheckedComponent) -> Iterator[tuple[str, Training, Training]]:
    """For each base optimizer: its name, training with the component set to `reduces_to_base`, and training with the base itself.

    Raises:
        NotDeclared: The class says nothing of that.
    """
    settings = component.entry.reduces_to_base
    if settings is None:
        raise NotDeclared('the class has no `reduces_to_base`, such as {"rho": 0.0}')
    for base, reduced in with_each_base(component, **settings):
        plain = SGD(**{item.name: getattr(reduced, item.name) for item in fields(LocalOptimizer)})
        batches = random_batches(STEPS)
        yield base, train(reduced, Softmax(), start(), batches), train(plain, Softmax(), start(), batches)


def it_reduces_to_its_base(component: CheckedComponent) -> None:
    """With the declared settings it goes where its base optimizer goes, up to rounding."""
    for base, got, want in reductions(component):
        same = [torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(got.trace, want.trace, strict=True)]
        settings = ", ".join(f"{name} = {value}" for name, value in component.entry.reduces_to_base.items())
        expected = f"with {settings or 'any settings'} the weights of base {base}"
        if not all(same):
            step = same.index(False)
            expect(False, expected, f"weights that {describe_difference(got.trace[step], want.trace[step])} after step {step + 1}")
        expect(
            torch.allclose(got.losses, want.losses, rtol=1e-10, atol=1e-12),
            f"{expected}, and its losses",
            describe_difference(got.losses, want.losses),
        )


def inputs_are_unchanged(component: CheckedComponent) -> None:
    """Weights, state and batch are as they were after every step."""
    optimizer, rng, batches, w = component.make(BASES["sgd"]), np.random.default_rng(0), random_batches(STEPS), start()
    state = optimizer.init(w, task(optimizer, w, batches))
    for batch in batches:
        given = {"w": w, "state": state, "batch.x": batch.x, "batch.y": batch.y}
        before = snapshot(given)
        w, state, _ = optimizer.step(w, state, Softmax(), batch, rng)
        expect_unchanged(before, given)


def same_seed_same_result(component: CheckedComponent) -> None:
    """The same instance, trained twice: it keeps nothing to itself and draws from its generator alone."""
    optimizer, batches = component.make(BASES["sgd"]), random_batches(STEPS)

    def run() -> dict[str, Any]:
        done = train(optimizer, Softmax(), start(), batches, seed=3)
        return {"weights": done.trace, "losses": done.losses, "state": done.state}

    expect_deterministic(run, "training with one seed")


def it_finds_a_minimum(component: CheckedComponent) -> None:
    """Two hundred steps on a quadratic, with a small radius."""
    objective = Quadratic([0.5, 1.0, 2.0, 4.0], layout_of(("norm.weight", (2,)), ("fc.weight", (2,))))
    lowest = torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    batch, w = Batch(lowest.expand(6, 4), torch.arange(6) % 3), torch.zeros(4, dtype=torch.float64)
    radii = {item.name: 0.01 for item in fields(component.entry) if item.name in ("rho", "rho_max", "rho_min")}
    for base, optimizer in with_each_base(component, **{**radii, "momentum": 0.5, "weight_decay": 0.0, "lr": 0.05}):
        end = train(optimizer, objective, w, [batch] * 200).trace[-1]
        first, last = (float(objective.losses(point, batch).mean()) for point in (w, end))
        expected = f"a loss below {LOWEST} after 200 steps of base {base} with lr 0.05 from a loss of {first:.3g}"
        expect(last < LOWEST, expected, f"{last:.3g}")


def state_can_be_kept(component: CheckedComponent) -> None:
    """A state that travelled through records goes on as the state itself does, at new weights."""
    optimizer, batches = component.make(BASES["sgd"]), random_batches(STEPS)
    state, w = train(optimizer, Softmax(), start(), batches).state, start(seed=8)
    known = task(optimizer, w, batches)
    travelled = client_state.decode_state(*client_state.encode_state(state))

    def go_on(state: State) -> Tensor:
        rng, x, state = np.random.default_rng(1), w, optimizer.resume(state, w, known)
        for batch in batches:
            x, state, _ = optimizer.step(x, state, Softmax(), batch, rng)
        return x

    before = snapshot(state)
    got, want = go_on(travelled), go_on(state)
    expect_unchanged({"state": before}, {"state": state}, "`resume`'s ")
    expect_vector(want, w, "the weights of the next round")
    expect(
        torch.equal(got, want),
        "the same next round from the kept state and from a copy that was sent",
        f"weights that {describe_difference(got, want)}",
    )


def cost_is_as_declared(component: CheckedComponent) -> None:
    """Evaluations counted in sixty steps after its start, which are whole periods of all our methods."""
    optimizer = component.make(BASES["sgd"])
    try:
        cost = step_cost.declared(type(optimizer))
    except ValueError as error:
        raise NotDeclared(str(error)) from None
    batches = random_batches(step_cost.warmup_steps(optimizer) + 60, 12)
    got, variables = step_cost.measured(optimizer, Softmax(), start(), batches, task(optimizer, start(), batches))
    try:
        want = cost.evaluations(optimizer, variables)
    except Exception as error:  # a formula may hold anything
        formulas = " and ".join(map(repr, cost.texts()))
        raise ContractError(f"expected formulas of its hyperparameters, B, S and p as its cost, found {formulas} ({error})") from None
    for kind in ("forward", "backward"):
        declared, counted = getattr(want, kind), getattr(got, kind)
        expected = f"{declared:g} {kind} passes per example and step, as its `cost` says"
        expect(math.isclose(declared, counted, rel_tol=1e-6, abs_tol=1e-9), expected, f"{counted:.4g}")


def lr_can_be_scaled(component: CheckedComponent) -> None:
    """The schedule replaces `lr` in every round, and nothing else."""
    optimizer = component.make(BASES["sgd"])
    scaled = replace(optimizer, lr=0.5 * optimizer.lr)
    found = ", ".join(f"{item.name} = {getattr(scaled, item.name)}" for item in fields(optimizer))
    alike = replace(scaled, lr=optimizer.lr) == optimizer
    expect(scaled.lr == 0.5 * optimizer.lr and alike, "`replace(optimizer, lr=...)` to change `lr` alone", found)
    batch = random_batches(1)
    whole, half = (train(each, Softmax(), start(), batch).trace[0] for each in (optimizer, scaled))
    expect(not torch.allclose(whole, half, rtol=1e-10), "another step with half of the learning rate", "the same step")


CHECKS = (
    Check("a step gives weights, a state and a loss per example", a_step_is_complete),
    Check("with `reduces_to_base` it is its base optimizer", it_reduces_to_its_base),
    Check("its inputs stay as they are", inputs_are_unchanged),
    Check("the same seed gives the same result", same_seed_same_result),
    Check("it finds the minimum of a quadratic", it_finds_a_minimum),
    Check("a schedule can scale its learning rate", lr_can_be_scaled),
    Check("its state can be kept for the client's next round", state_can_be_kept),
    Check("it costs what it declares", cost_is_as_declared),
    ONE_MODEL,
)
