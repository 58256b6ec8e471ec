"""What a correction is: terms of the local step that do not come from the client's loss.

Legend: `x, g, w: (P,)`: local iterate, gradient, received global vector; `terms`, `client_state`, `server_payload`: vectors by name.
The local step is `x <- x - lr * (clip(linear(g)) + (weight_decay + kappa) * x)`: linear terms are clipped with the gradient, the
x half of a quadratic penalty and weight decay are not (FL-Simulator's order; `Clip` has the others).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.base import LocalOptimizer
from fedsam import registry
from fedsam.config import Clip, Component, Named
from fedsam.documentation import Documented, hyperparameter
from fedsam.models.flat import Layout
from fedsam.registry import ClassContract, Registry
from fedsam.schedules import CONSTANT_RATE, LocalRate

Vectors = Mapping[str, Tensor]
NONE = Component(name="none")


@dataclass(frozen=True)
class LocalOutcome:
    """What local training left behind, as a correction sees it.

    Attributes:
        w: The received global vector (P,).
        x: The vector after the last local step (P,).
        state: The local optimizer's final state.
        steps: Local steps really taken.
        optimizer: The local optimizer, its learning rate that of this round.
        rate: The learning rate over the steps of the round.
        layout: Of the vectors; None outside local training.
        cohort: Clients that were asked in this round; None where the server does not say.
        rng: Makes the generator of what a correction draws after the last step; None outside a federation.
    """

    w: Tensor
    x: Tensor
    state: Mapping[str, Any]
    steps: int
    optimizer: LocalOptimizer
    rate: LocalRate = CONSTANT_RATE
    layout: Layout | None = None
    cohort: int | None = None
    rng: Callable[[], np.random.Generator] | None = None

    @property
    def delta(self) -> Tensor:
        """Where local training went: after - before (P,)."""
        return self.x - self.w

    @property
    def reach(self) -> float:
        """The sum of the learning rates of all steps: how far a gradient of 1 was followed by plain SGD."""
        return self.optimizer.lr * self.rate.reach(self.steps)


@dataclass(frozen=True)
class Payload:
    """What goes up besides the delta, each vector (P,) under its name.

    Attributes:
        delta: What to send in place of after - before, if anything.
        mean: Averaged with the weights of the deltas.
        population: Summed over the cohort and divided by the population.
        metrics: Scalars, averaged with the weights of the deltas.
    """

    delta: Tensor | None = None
    mean: Vectors = field(default_factory=dict)
    population: Vectors = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Correction(Documented):
    """No terms, nothing kept, nothing sent: the base of every correction, which overrides names by class attributes: `keeps = ("c",)`."""

    @property
    def keeps(self) -> tuple[str, ...]:
        """Names of the vectors kept on the client between rounds."""
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the vectors it needs from the server besides w."""
        return ()

    @property
    def sends(self) -> tuple[str, ...]:
        """What `finish` sends besides the delta: `mean.NAME`, `population.NAME`, `metrics.NAME`."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Names that `finish` reads in the local optimizer's state."""
        return ()

    @property
    def kappa(self) -> float:
        """Coefficient of x in the local step: the curvature of a quadratic penalty."""
        return 0.0

    def initial(self, w: Tensor) -> Vectors:
        """The state of a client that takes part for the first time and receives `w`."""
        return {name: torch.zeros_like(w) for name in self.keeps}

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        """The vectors that the local steps of this round need."""
        return {}

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        """The gradient with the terms that do not depend on x added."""
        return g

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        """The vectors to keep until this client's next round, and what to send besides the delta."""
        return client_state, Payload()


CORRECTIONS = Registry[type[Correction]]("corrections", ClassContract(Correction))  # filled by `clients.corrections`


def build(component: Component, where: str = "client.correction") -> Correction:
    """The correction that the key `where` names. Raises `ConfigError` for an unknown name or a wrong hyperparameter."""
    correction: Correction = registry.build(CORRECTIONS, component, where)
    return correction


@dataclass(frozen=True, kw_only=True)
class Wrapping(Correction):
    """A correction that adds to another one; what it does not override is the other's."""

    inner: Named = hyperparameter(NONE, "The other correction.")

    @cached_property
    def correction(self) -> Correction:
        """The other correction, built."""
        return build(self.inner, "client.correction.inner")

    @property
    def keeps(self) -> tuple[str, ...]:
        return self.correction.keeps

    @property
    def needs(self) -> tuple[str, ...]:
        return self.correction.needs

    @property
    def sends(self) -> tuple[str, ...]:
        return self.correction.sends

    @property
    def reads(self) -> tuple[str, ...]:
        return self.correction.reads

    @property
    def kappa(self) -> float:
        return self.correction.kappa

    def initial(self, w: Tensor) -> Vectors:
        return self.correction.initial(w)

    def start(self, w: Tensor, server_payload: Vectors, client_state: Vectors) -> Vectors:
        return self.correction.start(w, server_payload, client_state)

    def linear(self, g: Tensor, terms: Vectors) -> Tensor:
        return self.correction.linear(g, terms)

    def finish(self, outcome: LocalOutcome, server_payload: Vectors, client_state: Vectors) -> tuple[Vectors, Payload]:
        return self.correction.finish(outcome, server_payload, client_state)


@dataclass
class Corrected(Objective):
    """An objective whose descent direction carries a correction; gradients and losses stay the client's own.

    Attributes:
        terms: What the correction's `start` gave.
        placement: What the optimizer's clip sees: the gradient and the linear terms (FL-Simulator), the gradient alone, or also the
            x half of a quadratic penalty.
    """

    inner: Objective
    correction: Correction
    terms: Vectors
    placement: Clip = "fl-simulator"

    def __post_init__(self) -> None:
        self.layout = self.inner.layout

    def begin(self) -> None:
        self.inner.begin()

    def untouched(self) -> Tensor | None:
        return self.inner.untouched()

    def aside(self, *, evaluation: bool = False) -> AbstractContextManager[None]:
        return self.inner.aside(evaluation=evaluation)

    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Objective.grad`, uncorrected: no correction enters a perturbation."""
        return self.inner.grad(w, batch, mask=mask, weights=weights)

    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        """As `Objective.losses`, uncorrected."""
        return self.inner.losses(w, batch)

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        return self.inner.logits(w, batch)

    def distilled(
        self, w: Tensor, batch: Batch, teacher: Tensor, *, temperature: float, weight: float, task: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """As `Objective.distilled`, uncorrected."""
        return self.inner.distilled(w, batch, teacher, temperature=temperature, weight=weight, task=task)

    def descent(self, w: Tensor, g: Tensor, clip: Callable[[Tensor], Tensor]) -> Tensor:
        """As `Objective.descent`, corrected; the clip sees what `placement` says."""
        correction, kappa = self.correction, self.correction.kappa
        if self.placement == "loss-gradient":
            return _plus(correction.linear(clip(g), self.terms), w, kappa)
        if self.placement == "everything":
            return clip(_plus(correction.linear(g, self.terms), w, kappa))
        return _plus(clip(correction.linear(g, self.terms)), w, kappa)


def _plus(v: Tensor, x: Tensor, kappa: float) -> Tensor:
    return torch.add(v, x, alpha=kappa) if kappa else v
