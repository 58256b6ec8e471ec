"""A client's loss and gradient, and what may be wrapped around them.

Legend: `w, g: (..., P)`; `losses: (..., B)`; `mask`: one flag per tensor; `weights: (B,)` or `(K, B)`; "..." are client axes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedsam.config import ConfigError
from fedsam.models.flat import Layout
from fedsam.models.network import Network


@dataclass(frozen=True)
class Batch:
    """Examples of one local step: images `x` (B, C, H, W), labels `y` (B,)."""

    x: Tensor
    y: Tensor

    def __getitem__(self, index: Tensor | slice) -> Batch:
        """The examples that `index` selects."""
        return Batch(self.x[index], self.y[index])

    @property
    def size(self) -> int:
        """Number of examples."""
        return int(self.y.shape[-1])


class Objective(ABC):
    """Loss of a batch as a function of the parameter vector; the only thing a local optimizer may ask."""

    layout: Layout
    _reached: Sequence[bool] | None = None

    @abstractmethod
    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gradient (P,) of the mean loss at `w`, and the per-example losses (B,).

        Args:
            mask: One flag per tensor of the layout; tensors with a false flag take no part in the backward pass, their gradient is 0.
            weights: Take the gradient of `(weights * losses).sum()` instead of the mean; K rows give K gradients (K, P) of one
                forward pass.
        """

    @abstractmethod
    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        """Per-example losses (B,) at `w`, without a graph."""

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        """Class scores (B, classes) at `w`, without a graph."""
        raise TypeError(f"{type(self).__name__} has no logits")

    def distilled(
        self, w: Tensor, batch: Batch, teacher: Tensor, *, temperature: float, weight: float, task: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """As `grad`, of `task * mean loss + weight * KL(softmax(teacher / temperature) || softmax(logits / temperature))`, batch mean.

        Args:
            teacher: Class scores (B, classes) to stay close to.
        """
        raise TypeError(f"{type(self).__name__} has no logits")

    def begin(self) -> None:
        """Start a step: running statistics follow the next pass and no later one of the step."""

    def untouched(self) -> Tensor | None:
        """The scalars (P,) of tensors that no gradient has reached since this was last asked; None: there are none, or no gradient.

        What torch.optim leaves alone because its `grad` is None: heads that were not used, layers that were dropped, frozen tensors.
        """
        reached, self._reached = self._reached, None
        return None if reached is None or all(reached) else self.layout.per_tensor(~torch.tensor(reached))

    def _reach(self, grads: Sequence[Tensor | None]) -> None:
        """Note which tensors of the layout a gradient has reached."""
        before = self._reached or [False] * len(grads)
        self._reached = [known or g is not None for known, g in zip(before, grads, strict=True)]

    def aside(self, *, evaluation: bool = False) -> AbstractContextManager[None]:
        """Passes inside the block leave running statistics alone and are no pass of the step; `evaluation`: as when testing."""
        return nullcontext()

    def descent(self, w: Tensor, g: Tensor, clip: Callable[[Tensor], Tensor]) -> Tensor:
        """The direction to hand to the base optimizer at the restored weights `w`: here just the clipped gradient."""
        return clip(g)


class NetworkObjective(Objective):
    """Cross-entropy of a network, by autograd on views of one flat vector."""

    def __init__(self, network: Network, label_smoothing: float = 0.0) -> None:
        self.network = network
        self.layout = network.layout
        self.label_smoothing = label_smoothing
        self._first = True
        self._evaluation = False

    def begin(self) -> None:
        self._first = True

    @contextmanager
    def aside(self, *, evaluation: bool = False) -> Iterator[None]:
        first, reached, self._first, self._evaluation = self._first, self._reached, False, evaluation
        try:
            with self.network.evaluating() if evaluation else nullcontext():
                yield
        finally:
            self._first, self._reached, self._evaluation = first, reached, False

    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        losses = self._losses(w, batch)
        if weights is None:
            return self._backward(losses.mean(), mask), losses.detach()
        totals = (weights * losses).sum(dim=-1)
        if totals.ndim == 0:
            return self._backward(totals, mask), losses.detach()
        last = len(totals) - 1
        rows = [self._backward(total, mask, keep_graph=row < last) for row, total in enumerate(totals)]
        return torch.stack(rows), losses.detach()

    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self._losses(w, batch)

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self._logits(w, batch)

    def distilled(
        self, w: Tensor, batch: Batch, teacher: Tensor, *, temperature: float, weight: float, task: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        logits = self._logits(w, batch)
        losses = self._cross_entropy(logits, batch)
        student, wanted = (functional.log_softmax(z / temperature, dim=-1) for z in (logits, teacher))
        divergence = functional.kl_div(student, wanted, reduction="batchmean", log_target=True)
        total = weight * divergence + task * losses.mean() if task else weight * divergence
        return self._backward(total, None), losses.detach()

    def _losses(self, w: Tensor, batch: Batch) -> Tensor:
        return self._cross_entropy(self._logits(w, batch), batch)

    def _logits(self, w: Tensor, batch: Batch) -> Tensor:
        first, self._first = self._first, False
        if not self._evaluation:
            self.network.train(statistics=first)
        with nullcontext() if first else self.network.still():
            return self.network(w, batch.x)

    def _cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(logits, batch.y, reduction="none", label_smoothing=self.label_smoothing)

    def _backward(self, loss: Tensor, mask: Sequence[bool] | None, *, keep_graph: bool = False) -> Tensor:
        if any(p.requires_grad for p in self.network.frozen):
            raise ConfigError(
                "model: has thawed frozen parameters in training, which no one sends: have them require gradients from the start"
            )
        parameters = self.network.parameters
        asked = (
            [p.requires_grad for p in parameters]
            if mask is None
            else [flag and p.requires_grad for flag, p in zip(mask, parameters, strict=True)]
        )
        wanted = [p for p, flag in zip(parameters, asked, strict=True) if flag]
        found = iter(torch.autograd.grad(loss, wanted, retain_graph=keep_graph, allow_unused=True))
        grads = [next(found) if flag else None for flag in asked]
        self._reach(grads)
        return torch.cat([p.new_zeros(p.numel()) if g is None else g.reshape(-1) for p, g in zip(parameters, grads, strict=True)])


@dataclass
class Counted(Objective):
    """Counts what passes through: cost is measured here and never declared.

    Attributes:
        forward: Examples passed forward without a backward pass (forward evaluations).
        backward: Examples passed forward and backward (gradient evaluations); K gradients of one forward pass count K times.
    """

    inner: Objective
    forward: int = 0
    backward: int = 0

    def __post_init__(self) -> None:
        self.layout = self.inner.layout

    def begin(self) -> None:
        self.inner.begin()

    def untouched(self) -> Tensor | None:
        return self.inner.untouched()

    def aside(self, *, evaluation: bool = False) -> AbstractContextManager[None]:
        return self.inner.aside(evaluation=evaluation)

    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Objective.grad`, counted."""
        self.backward += batch.size * (weights.shape[-2] if weights is not None and weights.ndim > batch.y.ndim else 1)
        return self.inner.grad(w, batch, mask=mask, weights=weights)

    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        """As `Objective.losses`, counted."""
        self.forward += batch.size
        return self.inner.losses(w, batch)

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        """As `Objective.logits`, counted as a forward pass."""
        self.forward += batch.size
        return self.inner.logits(w, batch)

    def distilled(
        self, w: Tensor, batch: Batch, teacher: Tensor, *, temperature: float, weight: float, task: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """As `Objective.distilled`, counted as a gradient; the teacher's forward pass counts where it was asked for."""
        self.backward += batch.size
        return self.inner.distilled(w, batch, teacher, temperature=temperature, weight=weight, task=task)

    def descent(self, w: Tensor, g: Tensor, clip: Callable[[Tensor], Tensor]) -> Tensor:
        return self.inner.descent(w, g, clip)
