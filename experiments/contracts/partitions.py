"""What a partition promises.

Legend: `labels: (N,)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.contracts.actors import ONE_MODEL
from experiments.contracts.base import Check, CheckedComponent, describe_difference, expect, expect_deterministic, first_few, snapshot
from fedsam.config import ConfigError
from fedsam.data.partition import Ints

CLIENTS = 7
# Ten classes of unlike sizes in random order, one of them empty.
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), [90, 80, 70, 0, 60, 50, 40, 30, 20, 10]))


def dealt(component: CheckedComponent, labels: Ints = LABELS, clients: int = CLIENTS, seed: int = 0) -> list[Any]:
    """What each client gets; a partition that asks whose examples are, is told that they are the clients' in turn."""
    owners = {"owner": np.arange(len(labels)) % clients} if "owner" in inspect.signature(component.entry).parameters else {}
    return list(component.make()(labels, clients, np.random.default_rng(seed), **owners))


def one_array_per_client(component: CheckedComponent) -> None:
    """Whole numbers in ascending order, as many arrays as clients."""
    indices = dealt(component)
    expect(len(indices) == CLIENTS, f"one array for each of {CLIENTS} clients", str(len(indices)))
    for client, own in enumerate(indices):
        wanted = f"client {client} to get a one-dimensional array of whole numbers"
        expect(isinstance(own, np.ndarray), wanted, f"a {type(own).__name__}")
        expect(own.ndim == 1 and np.issubdtype(own.dtype, np.integer), wanted, f"{own.dtype} of shape {own.shape}")
        expect(bool((np.diff(own) > 0).all()), f"client {client}'s indices in ascending order, each once", first_few(own.tolist()))


def nobody_shares(component: CheckedComponent) -> None:
    """No example is dealt twice."""
    numbers, times = np.unique(np.concatenate(dealt(component)), return_counts=True)
    twice_dealt = numbers[times > 1].tolist()
    expect(not twice_dealt, "every example dealt once", f"{len(twice_dealt)} dealt more than once: {first_few(twice_dealt)}")


def nothing_is_left(component: CheckedComponent) -> None:
    """All examples are dealt, and nothing that is none."""
    given, there = np.concatenate(dealt(component)), np.arange(len(LABELS))
    left, strange = np.setdiff1d(there, given).tolist(), np.setdiff1d(given, there).tolist()
    expect(not left, f"all of {len(LABELS)} examples dealt", f"{len(left)} left over: {first_few(left)}")
    expect(not strange, f"indices from 0 to {len(LABELS) - 1}", first_few(strange))


def everybody_gets_some(component: CheckedComponent) -> None:
    """At least one example for each client, or as many as a hyperparameter `min_examples` says."""
    least = int(component.settings.get("min_examples", 1))
    sizes = [len(own) for own in dealt(component)]
    expect(min(sizes) >= least, f"at least {least} examples for each client", f"sizes {first_few(sizes, most=CLIENTS)}")


def too_many_clients_are_refused(component: CheckedComponent) -> None:
    """More clients than examples cannot each have one."""
    try:
        sizes = [len(own) for own in dealt(component, LABELS[:5], 6)]
    except ConfigError:
        return
    expect(False, "a ConfigError for 6 clients and 5 examples", f"sizes {sizes}")


def labels_are_unchanged(component: CheckedComponent) -> None:
    """The labels are as they were."""
    labels = LABELS.copy()
    before = snapshot(labels)
    dealt(component, labels)
    expect(np.array_equal(before, labels), "labels to stay as they are", f"labels that {describe_difference(before, labels)}")


def same_seed_same_deal(component: CheckedComponent) -> None:
    """It draws from its generator alone."""

    def run() -> Sequence[Any]:
        return dealt(component, seed=3)

    expect_deterministic(run, "dealing with one seed")


CHECKS = (
    Check("it gives one sorted array of indices per client", one_array_per_client),
    Check("no example is dealt twice", nobody_shares),
    Check("every example is dealt", nothing_is_left),
    Check("every client gets some", everybody_gets_some),
    Check("more clients than examples are refused", too_many_clients_are_refused),
    Check("the labels stay as they are", labels_are_unchanged),
    Check("the same seed gives the same result", same_seed_same_deal),
    ONE_MODEL,
)
