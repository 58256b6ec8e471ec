"""The elements of contracts: the component under check, its checks, and the assertions that checks use."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsam import registry
from fedsam.config import Component
from fedsam.registry import Registry
from fedsam.seeds import seeded_globals


class ContractError(AssertionError):
    """A component violates its contract; the message says what was expected and what was found."""


class NotDeclared(Exception):
    """A component does not declare what the check compares with; the message says how it could."""


class NotApplicable(Exception):
    """A check does not apply to a component; the message says why."""


@dataclass(frozen=True)
class CheckedComponent:
    """A component under check: a class or function with some of its hyperparameters.

    Attributes:
        kind: A key of `experiments.contracts.KINDS`.
        name: As in an experiment: a name of the registry, or `module:attribute`.
        registry: The components of its kind.
        settings: Hyperparameters; the others have their defaults.
        beside: Other settings, by dotted key, of the experiment in which it is run.
    """

    kind: str
    name: str
    registry: Registry[Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def entry(self) -> Any:
        """The class or function behind the name."""
        return self.registry.find(self.name, self.name)

    @property
    def component(self) -> Component:
        """The component as a setting of an experiment."""
        return Component(name=self.name, **self.settings)

    def make(self, defaults: Mapping[str, Any] | None = None, **changes: Any) -> Any:
        """Build the component: an instance of the class, or the function with its hyperparameters bound.

        Args:
            defaults: Hyperparameters that `settings` overrides.
            changes: Hyperparameters that override `settings`.

        Raises:
            ConfigError: A hyperparameter is unknown, missing or not allowed.
        """
        return registry.build(self.registry, Component(name=self.name, **{**(defaults or {}), **self.settings, **changes}), self.name)


@dataclass(frozen=True)
class Check:
    """One sentence of a contract.

    Attributes:
        title: The sentence.
        run: Returns where it holds; raises `ContractError` where it does not, `NotDeclared` or `NotApplicable` where it cannot be checked.
        starts_ray: Whether it starts Ray, which takes seconds.
    """

    title: str
    run: Callable[[CheckedComponent], None]
    starts_ray: bool = False


def expect(holds: bool, expected: str, found: str) -> None:
    """Raise a `ContractError` with the two halves of a sentence unless it `holds`."""
    if not holds:
        raise ContractError(f"expected {expected}, found {found}")


def expect_unchanged(before: Mapping[str, Any], after: Mapping[str, Any], whose: str = "") -> None:
    """Raise a `ContractError` that names the first value that differs from its `snapshot`."""
    changed = first_difference(before, after)
    expect(changed is None, f"{whose}inputs to stay as they are", str(changed))


def expect_vector(value: object, like: Tensor, what: str) -> None:
    """Raise a `ContractError` unless the value is a finite tensor of the shape and type of `like`, without a graph."""
    wanted = f"{what} to be a finite {like.dtype} tensor of shape {tuple(like.shape)} without a graph"
    expect(isinstance(value, Tensor), wanted, f"a {type(value).__name__}")
    assert isinstance(value, Tensor)
    expect(value.shape == like.shape and value.dtype == like.dtype, wanted, f"{value.dtype} of shape {tuple(value.shape)}")
    expect(not value.requires_grad, wanted, "one that requires a gradient: compute on detached tensors")
    expect(bool(torch.isfinite(value).all()), wanted, f"{int((~torch.isfinite(value)).sum())} values that are not finite")


def snapshot(value: Any) -> Any:
    """A deep copy of nested mappings, sequences, tensors and arrays."""
    if isinstance(value, Mapping):
        return {name: snapshot(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [snapshot(item) for item in value]
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def first_difference(a: Any, b: Any, where: str = "") -> str | None:
    """Where two nested values first differ, in words; None where they are equal bit for bit."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{where or 'names'} {sorted(a)} and {sorted(b)}"
        pairs = [(f"{where}[{name!r}]" if where else str(name), a[name], b[name]) for name in a]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{where} of {len(a)} and of {len(b)} values"
        pairs = [(f"{where}[{place}]", left, right) for place, (left, right) in enumerate(zip(a, b, strict=True))]
    else:
        return None if _equal(a, b) else f"{where or 'values'} that {describe_difference(a, b)}"
    return next((found for name, left, right in pairs if (found := first_difference(left, right, name))), None)


def describe_difference(a: Any, b: Any) -> str:
    """How two values differ, as the end of a sentence."""
    if isinstance(a, Tensor | np.ndarray) and isinstance(b, Tensor | np.ndarray):
        left, right = torch.as_tensor(a), torch.as_tensor(b)
        if left.shape != right.shape:
            return f"have shapes {tuple(left.shape)} and {tuple(right.shape)}"
        if left.dtype != right.dtype:
            return f"have types {left.dtype} and {right.dtype}"
        return f"differ by up to {(left.double() - right.double()).abs().max().item() if left.numel() else 0.0:.3g}"
    return f"are {a!r} and {b!r}"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a is b or (type(a) is type(b) and bool(a == b))


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch inside the block, and restore their states after it.

    Raises:
        ContractError: The block has drawn from one of them, or seeded it.
    """
    with seeded_globals(seed):
        before = _states()
        yield
        used = [name for name, state in _states().items() if state != before[name]]
        expect(not used, "every draw to come from the generator that is handed in", f"that {' and '.join(used)} was used")


def _states() -> dict[str, object]:
    numpy_state = np.random.get_state(legacy=False)["state"]
    return {
        "the global generator of Python's random": random.getstate(),
        "NumPy's global generator": (numpy_state["key"].tobytes(), numpy_state["pos"]),
        "torch's global generator": torch.random.get_rng_state().numpy().tobytes(),
    }


def expect_deterministic(run: Callable[[], Any], what: str) -> None:
    """Call `run` twice, with different global generators; raise a `ContractError` unless the results are equal bit for bit."""
    results = []
    for seed in (1, 2):
        with global_generators(seed):
            results.append(snapshot(run()))
    found = first_difference(*results)
    expect(found is None, f"{what} twice to give the same, whatever was run before", str(found))


def first_few(values: Sequence[Any], most: int = 5) -> str:
    """The first `most` values, and the number of the others.

    >>> first_few([1, 2, 3], most=2)
    '1, 2 and 1 more'
    """
    more = len(values) - most
    return ", ".join(map(str, values[:most])) + (f" and {more} more" if more > 0 else "")
