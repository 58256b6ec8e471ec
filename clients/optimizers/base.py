"""What every local optimizer shares: the base step that consumes a descent gradient, and the perturbation ball.

Legend: `w, g, q, v, m, u: (..., P)`; "..." are client axes; `state` maps names to tensors or plain values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.objective import Batch, Objective
from fedsam.config import NonNegative, Positive
from fedsam.documentation import Documented
from fedsam.models.flat import Layout

State = Mapping[str, Any]
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Task:
    """What a local optimizer may know about the round that begins; the defaults describe training outside a federation.

    Attributes:
        round: Round, from 1.
        rounds: Rounds of the whole run.
        steps: Local steps of one round; 0 if unknown.
        class_counts: The client's examples per class.
        peek: Gives n of the client's training examples, one fixed draw.
        terms: The correction's vectors of this round.
    """

    round: int = 1
    rounds: int = 1
    steps: int = 0
    class_counts: tuple[int, ...] = ()
    peek: Callable[[int], Batch] | None = None
    terms: Mapping[str, Tensor] = field(default_factory=dict)


def norm(v: Tensor) -> Tensor:
    """Euclidean norm over all scalars of a vector (..., P): (..., 1)."""
    length: Tensor = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return length


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over all scalars of two vectors (..., P): (..., 1)."""
    return (a * b).sum(dim=-1, keepdim=True)


def ball(direction: Tensor, rho: float | Tensor, eps: float) -> Tensor:
    """The perturbation (..., P) of length rho along `direction`; `eps` is added to the norm, so a zero direction gives zero."""
    return direction * (rho / (norm(direction) + eps))


@dataclass(frozen=True, kw_only=True)
class LocalOptimizer(Documented, ABC):
    """A step of local training; a subclass says where it takes its gradient, this class how the weights move.

    Source: the base steps are those of torch.optim.SGD and torch.optim.AdamW, weight decay and bias correction included.

    Attributes:
        lr: Learning rate; the experiment's schedule multiplies it.
        base: Base optimizer that consumes the descent gradient.
        momentum: Momentum of base `sgd`.
        dampening: Dampening of the momentum; the first step is not dampened.
        nesterov: Nesterov form of the momentum.
        weight_decay: Coefficient of w added to the gradient (sgd) or decoupled from it (adamw), at the restored weights.
        beta1: First-moment decay of base `adamw`.
        beta2: Second-moment decay of base `adamw`.
        eps: Added to the root of the second moment of base `adamw`.
        clip_norm: Largest L2 norm of the descent gradient; unset: no clip.
        needs: Names of the correction's terms that it uses.
        reduces_to_base: Hyperparameters with which it is its base optimizer, a correction's terms being 0; None: nothing is promised.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    reduces_to_base: ClassVar[Mapping[str, Any] | None] = None
    lr: Positive = 0.1
    base: Literal["sgd", "adamw"] = "sgd"
    momentum: Decay = 0.0
    dampening: Decay = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    clip_norm: Positive | None = None

    @property
    def uses_rounds(self) -> bool:
        """Whether it reads `Task.rounds`, as set.

        A run that a budget ends does not know the number: it refuses those who declare this, and whoever else computes with it fails.
        """
        return False

    def init(self, w: Tensor, task: Task) -> State:
        """The state before the first step from weights `w`."""
        return {}

    def check(self, layout: Layout) -> None:
        """Raise `ConfigError` where the rule cannot work on a network of this layout."""

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """A state kept from an earlier round, at newly received weights `w`; drops what is true at the old weights only."""
        return state

    def degenerate(self, steps: int) -> str | None:
        """Why this setting makes the method another one, when every local training starts afresh and has `steps` steps; else nothing."""
        return None

    def prepare(self, state: State) -> State:
        """The state with all that `phase` must know read back from the device and settled; called on the host before it."""
        return state

    def phase(self, state: State, rng: np.random.Generator) -> str:
        """What the next step does, decided on the host before it runs; draws are made only here, values read back here and in `prepare`."""
        return "step"

    def step(self, w: Tensor, state: State, objective: Objective, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, State, Tensor]:
        """One local step: new weights, new state, and the per-example losses (..., B) of the first pass."""
        objective.begin()
        state = self.prepare(state)
        return self.advance(w, state, objective, batch, self.phase(state, rng))

    def advance(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, State, Tensor]:
        """The named phase of a step; reads no value back from the device, so that it can be captured as a graph."""
        g, losses, state = self.gradient(w, state, objective, batch, phase)
        w, state = self.descend(w, state, objective.descent(w, g, self.clip))
        return w, state, losses

    @abstractmethod
    def gradient(self, w: Tensor, state: State, objective: Objective, batch: Batch, phase: str) -> tuple[Tensor, Tensor, State]:
        """Descent gradient (..., P), per-example losses (..., B) of the first pass, new state."""

    def descend(self, w: Tensor, state: State, q: Tensor) -> tuple[Tensor, State]:
        """The base step from the restored weights `w` with descent gradient `q`."""
        return self._adamw(w, state, q) if self.base == "adamw" else self._sgd(w, state, q)

    def reach(self, steps: int, kappa: float = 0.0) -> float:
        """How far `steps` steps along a gradient of 1 go, in units of lr; `kappa` is the curvature of a quadratic penalty.

        >>> from clients.optimizers import SGD
        >>> SGD(lr=0.1).reach(5), round(SGD(lr=0.1, momentum=0.5).reach(2), 12)
        (5.0, 2.5)
        """
        plain = replace(self, weight_decay=0.0)
        x = torch.zeros(1, dtype=torch.float64)
        state: State = {}
        for _ in range(steps):
            x, state = LocalOptimizer.descend(plain, x, state, 1 + kappa * x)
        return -float(x) / self.lr

    def clip(self, g: Tensor) -> Tensor:
        """`g` scaled to at most `clip_norm`; as torch.nn.utils.clip_grad_norm_, 1e-6 included."""
        return g if self.clip_norm is None else g * torch.clamp(self.clip_norm / (norm(g) + 1e-6), max=1.0)

    def _sgd(self, w: Tensor, state: State, q: Tensor) -> tuple[Tensor, State]:
        # Fused forms (add: a + alpha * b): on the CPU a new vector of this length costs more than the arithmetic on it.
        q = torch.add(q, w, alpha=self.weight_decay) if self.weight_decay else q
        if not self.momentum:
            return torch.sub(w, q, alpha=self.lr), state
        v = q
        if "v" in state:
            v = torch.add((1 - self.dampening) * q if self.dampening else q, state["v"], alpha=self.momentum)
        direction = torch.add(q, v, alpha=self.momentum) if self.nesterov else v
        return torch.sub(w, direction, alpha=self.lr), {**state, "v": v}

    def _adamw(self, w: Tensor, state: State, q: Tensor) -> tuple[Tensor, State]:
        m, u, t = state.get("m", torch.zeros_like(w)), state.get("u", torch.zeros_like(w)), state.get("t", 0) + 1
        m = self.beta1 * m + (1 - self.beta1) * q
        u = self.beta2 * u + (1 - self.beta2) * q * q
        w = (1 - self.lr * self.weight_decay) * w
        w = w - self.lr / (1 - self.beta1**t) * m / (u.sqrt() / (1 - self.beta2**t) ** 0.5 + self.eps)
        return w, {**state, "m": m, "u": u, "t": t}
