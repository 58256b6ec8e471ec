"""What a correction promises.

Legend: `w, x, g: (P,)`: received vector, local iterate, gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.corrections.base import Correction, LocalOutcome, Payload, Vectors
from clients.optimizers.sgd import SGD
from experiments.contracts.actors import ONE_MODEL
from experiments.contracts.base import (
    Check,
    CheckedComponent,
    expect,
    expect_deterministic,
    expect_unchanged,
    expect_vector,
    first_few,
    snapshot,
)
from experiments.contracts.objectives import layout_of

SIZE, STEPS, LR = 6, 4, 0.5


@dataclass(frozen=True)
class Round:
    """One client's round with a correction, all that goes in; see `Correction` for the names."""

    server_payload: Vectors
    client_state: Vectors
    outcome: LocalOutcome

    @classmethod
    def of(cls, correction: Correction) -> Round:
        """What the correction says it needs and reads, and no more; it takes part for the first time."""
        w, x = vector(0), vector(1)
        names = ("w", *correction.needs)
        server_payload = {name: w if name == "w" else vector(10 + place) for place, name in enumerate(names)}
        state = {name: vector(20 + place) for place, name in enumerate(correction.reads)}
        layout = layout_of(("norm.weight", (2,)), ("fc.weight", (SIZE - 2,)))
        outcome = LocalOutcome(w, x, state, STEPS, SGD(lr=LR), layout=layout, cohort=3, rng=partial(np.random.default_rng, 0))
        return cls(server_payload, correction.initial(w), outcome)

    def inputs(self) -> dict[str, Any]:
        """The vectors that go in, by name."""
        vectors = {"w": self.outcome.w, "x": self.outcome.x, "state": self.outcome.state}
        return {"server_payload": self.server_payload, "client_state": self.client_state, **vectors}

    def play(self, correction: Correction) -> tuple[Tensor, Vectors, Payload]:
        """The direction at x for one gradient, what is kept and what is sent."""
        terms = correction.start(self.outcome.w, self.server_payload, self.client_state)
        direction = correction.linear(vector(2), terms)
        return direction, *correction.finish(self.outcome, self.server_payload, self.client_state)


def vector(seed: int) -> Tensor:
    """A random vector (P,)."""
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def names_sent(payload: Payload) -> set[str]:
    """What was sent besides the delta, as `Correction.sends` writes it."""
    return {f"{kind.name}.{name}" for kind in fields(Payload) if kind.name != "delta" for name in getattr(payload, kind.name)}


def it_keeps_what_it_says(component: CheckedComponent) -> None:
    """The names in `keeps`, before the first round and after it."""
    correction: Correction = component.make()
    start = Round.of(correction)
    after = start.play(correction)[1]
    for when, client_state in (("`initial`", start.client_state), ("`finish`", after)):
        expect(isinstance(client_state, Mapping), f"{when} to give a mapping to keep", f"a {type(client_state).__name__}")
        expected = f"{when} to keep what `keeps` names ({first_few(sorted(correction.keeps)) or 'nothing'})"
        expect(set(client_state) == set(correction.keeps), expected, first_few(sorted(client_state)) or "nothing")
        for name, value in client_state.items():
            expect_vector(value, start.outcome.w, f"kept {name}")


def it_sends_what_it_says(component: CheckedComponent) -> None:
    """The names in `sends`."""
    correction: Correction = component.make()
    start = Round.of(correction)
    payload = start.play(correction)[2]
    expect(isinstance(payload, Payload), "`finish` to give (what to keep, Payload(...))", f"a {type(payload).__name__}")
    names, said = names_sent(payload), set(correction.sends)
    expect(names == said, f"what `sends` names ({first_few(sorted(said)) or 'nothing'})", first_few(sorted(names)) or "nothing")
    vectors = {"delta": payload.delta} if payload.delta is not None else {}
    for name, value in {**vectors, **payload.mean, **payload.population}.items():
        expect_vector(value, start.outcome.w, f"sent {name}")
    for name, number in payload.metrics.items():
        is_number = isinstance(number, int | float) and math.isfinite(number)
        expect(is_number, f"metric {name} to be a finite number", repr(number))


def it_gives_a_direction(component: CheckedComponent) -> None:
    """`linear` gives a vector, `kappa` a curvature."""
    correction: Correction = component.make()
    start = Round.of(correction)
    expect_vector(start.play(correction)[0], vector(2), "the direction that `linear` gives")
    kappa = correction.kappa
    is_number = isinstance(kappa, int | float) and math.isfinite(kappa) and kappa >= 0
    expect(is_number, "`kappa` to be a finite number, >= 0", repr(kappa))


def inputs_are_unchanged(component: CheckedComponent) -> None:
    """What was received and kept, the weights and the optimizer's state."""
    correction: Correction = component.make()
    start = Round.of(correction)
    before = snapshot(start.inputs())
    start.play(correction)
    expect_unchanged(before, start.inputs())


def gradient_is_unchanged(component: CheckedComponent) -> None:
    """`linear` returns a new vector, and leaves the terms of the round alone."""
    correction: Correction = component.make()
    start, g = Round.of(correction), vector(2)
    terms = correction.start(start.outcome.w, start.server_payload, start.client_state)
    before = snapshot({"g": g, "terms": terms})
    correction.linear(g, terms)
    expect_unchanged(before, {"g": g, "terms": terms}, "`linear`'s ")


def same_inputs_same_result(component: CheckedComponent) -> None:
    """The same instance in the same round twice: it keeps nothing to itself and draws nothing."""
    correction: Correction = component.make()

    def run() -> dict[str, Any]:
        direction, client_state, payload = Round.of(correction).play(correction)
        return {"direction": direction, "client_state": client_state, "payload": [getattr(payload, kind.name) for kind in fields(Payload)]}

    expect_deterministic(run, "the same round")


CHECKS = (
    Check("a client keeps what `keeps` says", it_keeps_what_it_says),
    Check("a client sends what `sends` says", it_sends_what_it_says),
    Check("it gives a direction and a curvature", it_gives_a_direction),
    Check("its inputs stay as they are", inputs_are_unchanged),
    Check("the gradient and the round's terms stay as they are", gradient_is_unchanged),
    Check("the same round gives the same result", same_inputs_same_result),
    ONE_MODEL,
)
