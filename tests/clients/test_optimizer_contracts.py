"""What every local optimizer of the table must hold; a new line in OPTIMIZERS is enrolled here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clients.objective import Batch, Objective
from clients.optimizers import OPTIMIZERS, SGD, build
from clients.optimizers.base import LocalOptimizer, State, Step, Stepped, may_draw
from experiments.contracts.base import Check, CheckedComponent, NotDeclared
from experiments.contracts.objectives import Softmax, random_batches
from experiments.contracts.optimizers import BASES, CHECKS, cost_is_as_declared, it_reduces_to_its_base, reductions, start, train
from fedsam.config import Component

METHODS = tuple(OPTIMIZERS)

# Settings that bring every kind of step of a method into a few steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "esam": {"beta": 0.5, "gamma": 0.6},
    "looksam": {"k": 3},
    "multistep_sam": {"ascent_steps": 3},
    "vsam": {"window": 4, "blocks": 2, "warmup_steps": 4},
    "aesam": {"total_steps": 100},
    "sparse_sam": {"num_samples": 4, "steps_per_epoch": 5},
    "dynamic_sparse_sam": {"steps_per_epoch": 5},
    "m_sharpness_sam": {"m": 3},
    "zosam": {"num_probes": 2},
    "warm_sam": {"warmup_rounds": 2},
}

# The kinds of step that a method plans, where there are several.
KINDS: dict[str, set[str]] = {
    "aesam": {"probe", "sam", "plain"},
    "looksam": {"sam", "reuse"},
    "sparse_sam": {"step", "refresh"},
    "dynamic_sparse_sam": {"step", "refresh"},
    "vsam": {"sam", "reuse"},
}

# Sums and differences that cancel in exact arithmetic; all others equal their base to the bit.
ROUNDED = {"focal_sam", "gsam", "fedgmt", "ksam", "m_sharpness_sam", "multistep_sam"}
# Says nothing of its base: `sgd` is it, SAMPa looks ahead along the last gradient whatever rho is.
UNREDUCED = {"sgd", "sampa"}
# Settings with which the formulas of the costs are exact.
COSTED: dict[str, dict[str, Any]] = {
    "esam": {"beta": 0.5, "gamma": 0.5},  # half of 12 examples are a whole number
    "sparse_sam": {"num_samples": 4},  # a refresh for every round of 20 steps
}


def component(name: str, settings: Mapping[str, Any] | None = None) -> CheckedComponent:
    """A method of the table, set so that all its kinds of step come up."""
    return CheckedComponent("optimizer", name, OPTIMIZERS, SETTINGS.get(name, {}) if settings is None else settings)


def make(name: str, base: str = "sgd", **settings: Any) -> LocalOptimizer:
    """A method on a base optimizer; the settings must pass the validation of an experiment."""
    return build(Component(name=name, **{**BASES[base], **settings}))


@pytest.mark.parametrize("check", [check for check in CHECKS if not check.starts_ray], ids=lambda check: check.title)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name: str, check: Check) -> None:
    costs = check.run is cost_is_as_declared
    checked = component(name, COSTED.get(name) if costs else None)
    if check.run is it_reduces_to_its_base and name in UNREDUCED:
        with pytest.raises(NotDeclared):
            check.run(checked)
    else:
        check.run(checked)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("esam", {}), ("multistep_sam", {"variant": "explicit", "ascent_radii": (0.1, 0.2, 0.3), "descent_weights": (0.0, 0.2, 0.3, 0.5)})],
)
def test_a_cost_holds_in_every_case(name: str, settings: dict[str, Any]) -> None:
    cost_is_as_declared(component(name, settings))


def test_those_draw_that_have_a_plan_or_a_step_of_their_own() -> None:
    class Drawing(SGD):
        def step(self, w: Tensor, state: State, objective: Objective, batch: Batch, rng: np.random.Generator) -> Stepped:
            return super().step(w + float(rng.random()), state, objective, batch, rng)

    assert may_draw(Drawing())
    assert {name for name in METHODS if may_draw(make(name))} == {"esam", "zosam", *KINDS}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ROUNDED | UNREDUCED])
def test_without_a_perturbation_it_is_its_base_to_the_bit(name: str) -> None:
    found = [torch.equal(got.trace, want.trace) for _, got, want in reductions(component(name))]
    assert found == [True, True]


def test_the_first_step_of_sampa_is_a_base_step() -> None:
    for base in BASES:
        first, plain = (train(optimizer, Softmax(), start(), random_batches(1)) for optimizer in (make("sampa", base), make("sgd", base)))
        assert torch.equal(first.trace, plain.trace)


def test_momentum_sam_without_a_displacement_decays_as_base_sgd() -> None:
    ends = [train(optimizer, Softmax(), start(), random_batches(12)).trace for optimizer in (make("msam", rho=0.0), make("sgd"))]
    assert torch.equal(*ends)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_a_client_axis_equals_a_loop_over_clients(name: str, base: str) -> None:
    # Clients that take their steps together have the same plan; vSAM's are so in its warm-up.
    steps = SETTINGS["vsam"]["warmup_steps"] if name == "vsam" else 8
    optimizer = make(name, base, **SETTINGS.get(name, {}))
    weights = [start(seed=seed) for seed in (1, 2, 3)]
    batches = [random_batches(steps, seed=seed) for seed in (4, 5, 6)]
    together = [Batch(torch.stack([b.x for b in row]), torch.stack([b.y for b in row])) for row in zip(*batches, strict=True)]
    cohort = train(optimizer, Softmax(), torch.stack(weights), together)
    assert cohort.trace.shape == (steps, 3, start().numel())
    assert cohort.losses[0].shape == (3, 8)
    for client in range(3):
        alone = train(optimizer, Softmax(), weights[client], batches[client])
        assert torch.allclose(cohort.trace[:, client], alone.trace, rtol=1e-9, atol=1e-11)
        assert torch.allclose(cohort.losses[:, client], alone.losses, rtol=1e-9, atol=1e-11)


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
def test_a_planned_step_never_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    advance, plans = OPTIMIZERS[name].advance, set()

    def guarded(self: LocalOptimizer, w: Tensor, state: State, step: Step) -> Any:
        plans.add(step.plan)
        with NoSync():
            return advance(self, w, state, step)

    monkeypatch.setattr(OPTIMIZERS[name], "advance", guarded)
    train(make(name, clip_norm=1.0, **SETTINGS.get(name, {})), Softmax(), start(), random_batches(20))
    assert {plan.kind for plan in plans} == KINDS.get(name, {"step"})


@pytest.mark.parametrize("read", [float, bool, Tensor.item, Tensor.tolist, lambda x: x[x > 0], lambda x: 1 if x > 0 else 0])
def test_the_guard_notices_a_read_back(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError), NoSync():
        read(torch.ones(()))


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_number_of_steps_reduces_nothing(name: str) -> None:
    reason = OPTIMIZERS[name]().reduction_reason(0)
    assert reason is None or name == "esam"  # whose defaults are SAM, however many steps there are
