"""What every local optimizer shares: the base step that consumes a descent gradient, and the perturbation ball.

Legend: `w, g, q, v, m, u: (..., P)`; "..." are client axes; `state` maps names to tensors or plain values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.objective import Batch, Objective
from clients.optimizers.cost import StepCost
from fedsam.config import NonNegative, Positive
from fedsam.documentation import Documented, hyperparameter
from fedsam.models.flat import Layout
from fedsam.schedules import CONSTANT_RATE, LocalRate

State = Mapping[str, Any]
Gradient = tuple[Tensor, Tensor, State]  # descent gradient (..., P), per-example losses (..., B) of the first pass, new state
Stepped = tuple[Tensor, State, Tensor]  # new weights (..., P), new state, per-example losses (..., B) of the first pass
Decay = Annotated[float, Field(ge=0, lt=1)]
RADII = ("rho", "rho_max", "rho_min", "ascent_radii", "warmup_start")  # what a perturbation radius is called


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


@dataclass(frozen=True)
class StepPlan:
    """What the host decides about a step before it runs; an engine that captures steps as graphs can have one for each plan.

    Attributes:
        kind: Which of the method's steps it is.
        mask: One flag per tensor of the layout; None: all of them.
        seed: Of what is drawn on the device during the step.
    """

    kind: Literal["step", "sam", "plain", "reuse", "refresh", "probe"] = "step"
    mask: tuple[bool, ...] | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Step:
    """One local step, as a method sees it: the client's loss, the batch, and the plan."""

    objective: Objective
    batch: Batch
    plan: StepPlan = StepPlan()

    def grad(self, w: Tensor, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gradient (..., P) of the batch's mean loss at `w`, and the per-example losses (..., B); the rest as in `Objective.grad`."""
        return self.objective.grad(w, self.batch, mask=mask, weights=weights)


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

    Attributes:
        cost: What a step costs; a subclass declares its own.
        needs: Names of the correction's terms that it uses.
        needs_scores: Whether it looks at class scores, which the closure of an ordinary training loop does not give.
        reduces_to_base: Hyperparameters with which it is its base optimizer, a correction's terms being 0; None: nothing is promised.
    """

    source = "the base steps are those of torch.optim.SGD and torch.optim.AdamW, weight decay and bias correction included."
    cost: ClassVar[StepCost | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    needs_scores: ClassVar[bool] = False
    reduces_to_base: ClassVar[Mapping[str, Any] | None] = None
    lr: Positive = hyperparameter(0.1, "Learning rate; the experiment's schedule multiplies it.")
    base: Literal["sgd", "adamw"] = hyperparameter("sgd", "Base optimizer that consumes the descent gradient.")
    momentum: Decay = hyperparameter(0.0, "Momentum of base `sgd`.")
    dampening: Decay = hyperparameter(0.0, "Dampening of the momentum; the first step is not dampened.")
    nesterov: bool = hyperparameter(False, "Nesterov form of the momentum.")
    weight_decay: NonNegative = hyperparameter(
        0.0, "Coefficient of w added to the gradient (sgd) or decoupled from it (adamw), at the restored weights."
    )
    beta1: Decay = hyperparameter(0.9, "First-moment decay of base `adamw`.")
    beta2: Decay = hyperparameter(0.999, "Second-moment decay of base `adamw`.")
    eps: Positive = hyperparameter(1e-8, "Added to the root of the second moment of base `adamw`.")
    clip_norm: Positive | None = hyperparameter(None, "Largest L2 norm of the descent gradient; unset: no clip.")

    @classmethod
    def help_paragraphs(cls) -> list[str]:
        """As of every component, and what a step costs; an inherited cost says nothing of its own steps."""
        return [*super().help_paragraphs(), *([f"Cost: {cls.cost}"] if "cost" in vars(cls) else [])]

    @property
    def uses_rounds(self) -> bool:
        """Whether it reads `Task.rounds`, as set.

        A run that a budget ends does not know the number: it refuses those who declare this, and whoever else computes with it fails.
        """
        return False

    def init(self, w: Tensor, task: Task) -> State:
        """The state before the first step from weights `w`."""
        return {}

    def radii(self) -> dict[str, Any]:
        """The perturbation radii among its hyperparameters, by name; those that are unset are left out."""
        return {item.name: value for item in fields(self) if item.name in RADII and (value := getattr(self, item.name)) is not None}

    def with_radii(self, factor: float) -> Self:
        """The optimizer with its perturbation radii multiplied."""

        def times(radius: float | tuple[float, ...]) -> float | tuple[float, ...]:
            return tuple(factor * one for one in radius) if isinstance(radius, tuple) else factor * radius

        changed: dict[str, Any] = {name: times(radius) for name, radius in self.radii().items()}
        return replace(self, **changed)

    def check(self, layout: Layout) -> None:
        """Raise `ConfigError` where the rule cannot work on a network of this layout."""

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """A state kept from an earlier round, at newly received weights `w`; drops what is true at the old weights only.

        Who needs terms of the correction has those of the new round, as `init` takes them.
        """
        return {**state, **self.init(w, task)} if self.needs else state

    def reduction_reason(self, steps: int) -> str | None:
        """Why this setting reduces to a simpler method when every local training starts afresh and has `steps` steps; else nothing."""
        return None

    def plan(self, state: State, rng: np.random.Generator) -> StepPlan:
        """The next step's plan, made on the host before it runs: all draws of the step."""
        return StepPlan()

    def step(self, w: Tensor, state: State, objective: Objective, batch: Batch, rng: np.random.Generator) -> Stepped:
        """One local step."""
        objective.begin()
        return self.advance(w, state, Step(objective, batch, self.plan(state, rng)))

    def advance(self, w: Tensor, state: State, step: Step) -> Stepped:
        """The planned step; reads no value back from the device, so that it can be captured as a graph."""
        g, losses, after = self.gradient(w, state, step)
        return *self.move(w, state, after, g, step.objective), losses

    def move(self, w: Tensor, before: State, after: State, g: Tensor, objective: Objective) -> tuple[Tensor, State]:
        """The base step along the descent gradient `g` (..., P), corrected and clipped.

        Tensors that no gradient has reached, and what the state holds of them, stay as they were, as in torch.optim.

        Args:
            before: The state at the start of the step.
            after: The state after its gradient.
        """
        q, untouched = objective.descent(w, g, self.clip), objective.untouched()
        if untouched is None:
            return self.descend(w, after, q)
        untouched = untouched.to(w.device)
        x, after = self.descend(w.masked_fill(untouched, 0), after, q.masked_fill(untouched, 0))
        return torch.where(untouched, w, x), {name: _kept(untouched, name, before.get(name), value, w) for name, value in after.items()}

    @abstractmethod
    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """Descent gradient (..., P), per-example losses (..., B) of the first pass, new state."""

    def descend(self, w: Tensor, state: State, q: Tensor) -> tuple[Tensor, State]:
        """The base step from the restored weights `w` with descent gradient `q`."""
        return self._adamw(w, state, q) if self.base == "adamw" else self._sgd(w, state, q)

    def effective_steps(self, steps: int, kappa: float = 0.0, rate: LocalRate = CONSTANT_RATE) -> float:
        """How far `steps` steps along a gradient of 1 go, in units of lr; `kappa` is the curvature of a quadratic penalty.

        `rate` is that of the steps.

        >>> from clients.optimizers import SGD
        >>> SGD(lr=0.1).effective_steps(5), round(SGD(lr=0.1, momentum=0.5).effective_steps(2), 12)
        (5.0, 2.5)
        """
        plain = replace(self, weight_decay=0.0)
        x = torch.zeros(1, dtype=torch.float64)
        state: State = {}
        for step in range(steps):
            at_step = replace(plain, lr=self.lr * rate.factor(step, steps))
            x, state = LocalOptimizer.descend(at_step, x, state, 1 + kappa * x)
        return -float(x) / self.lr

    def clip(self, g: Tensor) -> Tensor:
        """`g` scaled to at most `clip_norm`; as torch.nn.utils.clip_grad_norm_, 1e-6 included."""
        return g if self.clip_norm is None else g * torch.clamp(self.clip_norm / (norm(g) + 1e-6), max=1.0)

    def _sgd(self, w: Tensor, state: State, q: Tensor) -> tuple[Tensor, State]:
        # Fused forms (add: a + alpha * b): on the CPU a new vector of this length costs more than the arithmetic on it.
        q = torch.add(q, w, alpha=self.weight_decay) if self.weight_decay else q
        if not self.momentum:
            return torch.sub(w, q, alpha=self.lr), state
        v, t = q, state.get("t", 0)
        if "v" in state:
            v = torch.add((1 - self.dampening) * q if self.dampening else q, state["v"], alpha=self.momentum)
            v = torch.where(t == 0, q, v) if isinstance(t, Tensor) else v
        direction = torch.add(q, v, alpha=self.momentum) if self.nesterov else v
        return torch.sub(w, direction, alpha=self.lr), {**state, "v": v, **({"t": t + 1} if self.dampening else {})}

    def _adamw(self, w: Tensor, state: State, q: Tensor) -> tuple[Tensor, State]:
        m, u, t = state.get("m", torch.zeros_like(w)), state.get("u", torch.zeros_like(w)), state.get("t", 0) + 1
        m = self.beta1 * m + (1 - self.beta1) * q
        u = self.beta2 * u + (1 - self.beta2) * q * q
        w = (1 - self.lr * self.weight_decay) * w
        w = w - self.lr / _bias(self.beta1, t, w) * m / (u.sqrt() / _bias(self.beta2, t, w) ** 0.5 + self.eps)
        return w, {**state, "m": m, "u": u, "t": t}


def may_draw(optimizer: LocalOptimizer) -> bool:
    """Whether an optimizer's steps may draw from their generator: `LocalOptimizer.step` hands it to `plan` alone, which makes no draws."""
    kind = type(optimizer)
    return kind.plan is not LocalOptimizer.plan or kind.step is not LocalOptimizer.step


def _bias(beta: float, t: int | Tensor, w: Tensor) -> float | Tensor:
    """1 - beta^t; `t` is a vector (P,) where some tensors took fewer steps than others."""
    return (1 - beta ** t.double()).to(w.dtype) if isinstance(t, Tensor) else 1 - beta**t


def _kept(untouched: Tensor, name: str, before: Any, after: Any, w: Tensor) -> Any:
    """An entry of the state after a step, as it was before where `untouched` (P,); one that is new starts from 0 there."""
    counted = name == "t"
    if counted or (isinstance(after, Tensor) and after.shape == w.shape and after.dtype == w.dtype):
        return torch.where(untouched, 0 if before is None else before, after)
    return after
