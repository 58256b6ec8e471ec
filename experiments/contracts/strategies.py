"""What a server rule promises; one that aggregates by itself, as Flower's do, takes no delta and promises the last only.

Legend: `w, delta: (P,)`: global vector, weighted mean of (after - before).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from experiments.contracts.actors import ONE_MODEL
from experiments.contracts.base import Check, CheckedComponent, expect, expect_deterministic, expect_unchanged, expect_vector, snapshot
from strategies.base import Aggregate, ServerRule, State

SIZE, ROUNDS = 6, 3


def vector(seed: int) -> Tensor:
    """A random vector (P,)."""
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def aggregate_of(rule: ServerRule, delta: Tensor, round: int = 1, *, others: Tensor | None = None) -> Aggregate:
    """What a cohort sends: the delta, and what the rule says it expects besides, and no more.

    Args:
        others: Each vector sent besides; default: a quarter of the delta.
    """

    def expected(kind: str) -> list[str]:
        return [name.removeprefix(f"{kind}.") for name in rule.expects if name.startswith(f"{kind}.")]

    besides = delta / 4 if others is None else others
    length = float(delta.norm())
    return Aggregate(
        delta=delta,
        mean={name: besides for name in expected("mean")},
        population={name: delta / 4 if name == "delta" else besides for name in expected("population")},
        metrics={"steps": 1.0} | dict.fromkeys(expected("metrics"), 1.0),
        norm=length,
        squared_norm=length**2,
        round=round,
        rounds=10,
        lr=0.5,
        cohort=2,
        clients=8,
    )


def it_sends_vectors(component: CheckedComponent) -> None:
    """The vector that clients start from, and others, before and after the first round."""
    rule, w = component.make(), vector(0)
    state = rule.init_state(w)
    for when in ("before", "after"):
        down = rule.broadcast(w, state)
        expect("w" in down, f"`broadcast` to give the clients' start as 'w' {when} the first round", ", ".join(down) or "nothing")
        expect_vector(down["w"], vector(0), f"the clients' start {when} the first round")
        for name, value in down.items():
            expect(isinstance(value, Tensor), f"broadcast {name} to be a tensor", f"a {type(value).__name__}")
            expect_vector(value, torch.zeros(value.shape, dtype=w.dtype), f"broadcast {name}")
        w, state = rule.server_step(w, state, aggregate_of(rule, vector(1)))
        expect_vector(w, vector(0), "the next global vector")
        expect(isinstance(state, Mapping), "the state to be a mapping", f"a {type(state).__name__}")
        expect_vector(rule.evaluated(w, state), vector(0), "the vector to evaluate")


def it_stands_still(component: CheckedComponent) -> None:
    """A first round in which no client moved leaves the global vector where it is."""
    rule, w, zero = component.make(), vector(0), torch.zeros(SIZE, dtype=torch.float64)
    state = rule.init_state(w)
    expect(torch.equal(rule.broadcast(w, state)["w"], w), "clients to start the first round at the initial weights", "another start")
    new, after = rule.server_step(w, state, aggregate_of(rule, zero))
    for what, value in (("the next global vector", new), ("the vector to evaluate", rule.evaluated(new, after))):
        moved = float((value - w).abs().max())
        expect(torch.equal(value, w), f"{what} to stay where it was when no client has moved", f"a move of up to {moved:.3g}")
    for name, value in rule.broadcast(new, after).items():
        expect(bool(torch.isfinite(value).all()), f"broadcast {name} to be finite when no client has moved", "values that are not")


def it_follows_the_clients(component: CheckedComponent) -> None:
    """The first move goes where the clients went, not the other way: a delta is after - before."""
    rule, w, delta = component.make(), vector(0), vector(1)
    new, _ = rule.server_step(w, rule.init_state(w), aggregate_of(rule, delta, others=torch.zeros_like(delta)))
    cosine = float(torch.nn.functional.cosine_similarity(new - vector(0), delta, dim=0))
    expect(cosine > 0, "the first move to go where the clients went (a cosine above 0 with delta = after - before)", f"{cosine:.3g}")


def inputs_are_unchanged(component: CheckedComponent) -> None:
    """The global vector, the state and what clients sent are as they were after every step."""
    rule, w = component.make(), vector(0)
    state: State = rule.init_state(w)
    for round in range(1, ROUNDS + 1):
        aggregate = aggregate_of(rule, vector(round), round)
        given = {"w": w, "state": state, "delta": aggregate.delta, "mean": aggregate.mean, "population": aggregate.population}
        before = snapshot(given)
        new, after = rule.server_step(w, state, aggregate)
        rule.broadcast(new, after)
        rule.evaluated(new, after)
        expect_unchanged(before, given)
        w, state = new, after


def same_rounds_same_result(component: CheckedComponent) -> None:
    """The same instance over the same rounds twice: it keeps nothing to itself and draws nothing."""
    rule: ServerRule = component.make()

    def run() -> dict[str, Any]:
        w, vectors = vector(0), []
        state = rule.init_state(w)
        for round in range(1, ROUNDS + 1):
            w, state = rule.server_step(w, state, aggregate_of(rule, vector(round), round))
            vectors += [w, rule.evaluated(w, state), dict(rule.broadcast(w, state))]
        return {"vectors": vectors, "state": state}

    expect_deterministic(run, "the same rounds")


FLOWER_CHECKS = (ONE_MODEL,)
CHECKS = (
    Check("it sends the clients' start, and vectors", it_sends_vectors),
    Check("it stands still when no client moves", it_stands_still),
    Check("it goes where the clients went", it_follows_the_clients),
    Check("its inputs stay as they are", inputs_are_unchanged),
    Check("the same rounds give the same result", same_rounds_same_result),
    ONE_MODEL,
)
