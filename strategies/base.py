"""What a server strategy is: vector algebra from the aggregate of a round to the next global vector.

Legend: `w, delta: (P,)`; `state` maps names to vectors (P,), plain numbers, or the state of an inner rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from fedsam import registry
from fedsam.config import Component, ConfigError, Named
from fedsam.documentation import Documented, hyperparameter
from fedsam.registry import ClassContract, Registry
from fedsam.schedules import CONSTANT_RATE, LocalRate

State = Mapping[str, Any]
FEDAVG = Component(name="fedavg")


@dataclass(frozen=True)
class Aggregate:
    """What a cohort sent in one round, combined.

    Attributes:
        delta: Weighted mean of (after - before) (P,); it points where the clients went.
        mean: Weighted means of the other vectors sent, by name.
        population: Sums over the cohort divided by the population, by name.
        metrics: Weighted means of the scalars sent (`steps`, a correction's own).
        norm: Plain mean of the deltas' L2 norms.
        squared_norm: Weighted mean of the deltas' squared L2 norms.
        round: Round, from 1.
        rounds: Rounds of the whole run.
        lr: Local learning rate of this round, of the first local step.
        rate: The learning rate over the local steps of a round.
        cohort: Clients whose update was accepted.
        clients: Population.
    """

    delta: Tensor
    mean: Mapping[str, Tensor] = field(default_factory=dict)
    population: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    norm: float = 0.0
    squared_norm: float = 0.0
    round: int = 1
    rounds: int = 1
    lr: float = 1.0
    cohort: int = 1
    clients: int = 1
    rate: LocalRate = CONSTANT_RATE

    @property
    def reach(self) -> float:
        """Weighted mean of the clients' sums of learning rates in this round: what delta is divided by to be a gradient."""
        return self.lr * self.rate.reach(self.metrics["steps"])


@dataclass(frozen=True, kw_only=True)
class ServerRule(Documented, ABC):
    """A server strategy's mathematics; `CohortStrategy` is the shell that runs it.

    Attributes:
        nests: Whether it can be another rule's inner one.
    """

    nests: ClassVar[bool] = True

    @property
    def expects(self) -> tuple[str, ...]:
        """What the rule combines besides the mean delta: `mean.NAME`, `population.NAME`, `metrics.NAME`.

        Clients' corrections must send it, all but `population.delta`, which needs nothing more than the deltas.
        """
        return ()

    @property
    def mirrors(self) -> tuple[str, ...]:
        """Names of vectors that clients must keep, because the rule follows their mean over the population."""
        return ()

    @property
    def uses_rounds(self) -> bool:
        """Whether it reads `Aggregate.rounds`, as set.

        A run that a budget ends does not know the number: it refuses those who declare this, and whoever else computes with it fails.
        """
        return False

    def init_state(self, w: Tensor) -> State:
        """The server state before the first round."""
        return {}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """What goes down, by name; `w` is the vector that clients start from."""
        return {"w": w}

    @abstractmethod
    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        """The next global vector and server state."""

    def evaluated(self, w: Tensor, state: State) -> Tensor:
        """The vector to evaluate and to keep as the model."""
        return w


STRATEGIES = Registry[type[ServerRule]]("strategies", ClassContract(ServerRule))  # filled by `strategies`


def build(component: Component, where: str = "server.strategy") -> ServerRule:
    """The strategy that the key `where` names. Raises `ConfigError` for an unknown name or a wrong hyperparameter."""
    rule: ServerRule = registry.build(STRATEGIES, component, where)
    return rule


@dataclass(frozen=True, kw_only=True)
class Wrapping(ServerRule):
    """A rule that adds to another one, whose state it keeps under `inner`; what it does not override is the other's."""

    inner: Named = hyperparameter(FEDAVG, "The other rule.")

    @cached_property
    def rule(self) -> ServerRule:
        """The other rule, built."""
        rule = build(self.inner, "server.strategy.inner")
        if not rule.nests:
            raise ConfigError(f"server.strategy.inner: {self.inner.name!r} is not allowed: it aggregates by itself and takes no delta")
        return rule

    @property
    def expects(self) -> tuple[str, ...]:
        return self.rule.expects

    @property
    def mirrors(self) -> tuple[str, ...]:
        return self.rule.mirrors

    @property
    def uses_rounds(self) -> bool:
        return self.rule.uses_rounds

    def init_state(self, w: Tensor) -> State:
        return {"inner": self.rule.init_state(w)}

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        return self.rule.broadcast(w, state["inner"])

    def server_step(self, w: Tensor, state: State, aggregate: Aggregate) -> tuple[Tensor, State]:
        w, inner = self.rule.server_step(w, state["inner"], aggregate)
        return w, {**state, "inner": inner}

    def evaluated(self, w: Tensor, state: State) -> Tensor:
        return self.rule.evaluated(w, state["inner"])
