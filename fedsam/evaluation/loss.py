"""The mean loss over fixed examples as a pure function of the parameter vector, with its derivatives.

Legend: `w, v, g: (P,)`; `x: (N, ...)` raw examples; `y: (N,)` labels; `z: (B, classes)` logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedsam.config import ConfigError
from fedsam.models.flat import Layout


class EvaluationCost(NamedTuple):
    """Evaluations made, in examples.

    Attributes:
        gradient_evaluations: Examples passed forward and backward; a Hessian-vector product passes each backward twice and counts two.
        forward_evaluations: Examples passed forward only.
    """

    gradient_evaluations: int
    forward_evaluations: int


@dataclass(frozen=True)
class Loss:
    """Cross-entropy (nats) of a module in evaluation mode, averaged over all examples whatever the batches.

    Calls leave the module's tensors, their `grad` and `requires_grad`, its buffers and its mode unchanged. The module must be on the device
    of `w`; examples may be elsewhere and are moved batch by batch.

    Attributes:
        module: The network.
        buffers: Running statistics (Q,), in the order of `Layout.of_buffers`.
        x: Raw examples (N, ...).
        y: Labels (N,).
        sizes: Number of examples of each batch, with sum N; the largest determines the memory of a pass.
        prepare: Maps a batch of `x` on the device of `w` to the input of the network, in the floating-point type of `w`.
        normalize_logits: Whether the loss is that of `normalized_logits(logits)`, which is invariant to the scale of the last layer.
    """

    module: nn.Module
    buffers: Tensor
    x: Tensor
    y: Tensor
    sizes: tuple[int, ...]
    prepare: Callable[[Tensor], Tensor]
    normalize_logits: bool = False

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or sum(self.sizes) != self.examples:
            raise ConfigError(f"sizes: {self.sizes} is not allowed: positive numbers that sum to the {self.examples} examples")

    @property
    def examples(self) -> int:
        """N, the number of examples."""
        return len(self.y)

    @property
    def layout(self) -> Layout:
        """Order, names and shapes of the tensors in `w`."""
        return Layout.of_module(self.module)

    def split(self, m: int) -> Iterator[Loss]:
        """The losses over m consecutive examples each; the last has fewer if m does not divide N."""
        for start in range(0, self.examples, m):
            part = slice(start, start + m)
            yield replace(self, x=self.x[part], y=self.y[part], sizes=batch_sizes(len(self.y[part]), max(self.sizes)))

    def value(self, w: Tensor) -> float:
        """The loss at `w`."""
        total = torch.zeros((), dtype=torch.float64, device=w.device)
        with torch.no_grad(), _evaluating(self.module):
            parameters = self.layout.views(w)
            for x, y in self._batches():
                total += self._sum(parameters, x, y).double()
        return float(total) / self.examples

    def gradient(self, w: Tensor) -> tuple[Tensor, float]:
        """The gradient (P,) at `w`, and the loss there."""
        parameters, g = self._leaves(w), torch.zeros_like(w)
        total = torch.zeros((), dtype=torch.float64, device=w.device)
        with torch.enable_grad(), _evaluating(self.module):
            for x, y in self._batches():
                loss = self._sum(parameters, x, y)
                g += _flat(torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True))
                total += loss.detach().double()
        return g / self.examples, float(total) / self.examples

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        """The Hessian at `w` times v: the derivative of <gradient, v>. Kinks (ReLU, max-pooling) count as flat."""
        parameters, product = self._leaves(w), torch.zeros_like(w)
        leaves, directions = list(parameters.values()), list(self.layout.views(v).values())
        # Fused attention kernels have no second derivative.
        with torch.enable_grad(), _evaluating(self.module), sdpa_kernel(SDPBackend.MATH):
            for x, y in self._batches():
                grads = torch.autograd.grad(self._sum(parameters, x, y), leaves, create_graph=True, materialize_grads=True)
                along = torch.stack([(g * d).sum() for g, d in zip(grads, directions, strict=True)]).sum()
                product += _flat(torch.autograd.grad(along, leaves, materialize_grads=True))
        return product / self.examples

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.x.split(list(self.sizes)), self.y.split(list(self.sizes)), strict=True)

    def _leaves(self, w: Tensor) -> dict[str, Tensor]:
        return {name: view.detach().requires_grad_() for name, view in self.layout.views(w).items()}

    def _sum(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        w = next(iter(parameters.values()))
        held = Layout.of_buffers(self.module).views(self.buffers.to(w))
        z = torch.func.functional_call(self.module, {**parameters, **held}, (self.prepare(x.to(w.device)),))
        return functional.cross_entropy(normalized_logits(z) if self.normalize_logits else z, y.to(w.device), reduction="sum")


@dataclass
class CountedLoss:
    """A `Loss` that counts its evaluations.

    Attributes:
        inner: The loss.
        gradients: Gradient evaluations so far, in examples.
        forwards: Forward evaluations so far, in examples.
    """

    inner: Loss
    gradients: int = 0
    forwards: int = 0

    @property
    def cost(self) -> EvaluationCost:
        """The evaluations so far."""
        return EvaluationCost(self.gradients, self.forwards)

    def value(self, w: Tensor) -> float:
        """The loss at `w`."""
        self.forwards += self.inner.examples
        return self.inner.value(w)

    def gradient(self, w: Tensor) -> tuple[Tensor, float]:
        """The gradient (P,) at `w`, and the loss there."""
        self.gradients += self.inner.examples
        return self.inner.gradient(w)

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        """The Hessian at `w` times v, counted as two gradient evaluations."""
        self.gradients += 2 * self.inner.examples
        return self.inner.hvp(w, v)


def mean_and_error(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of independent samples (S, ...) and its standard error, both (...); the error of one sample is NaN."""
    error = samples.std(dim=0) / math.sqrt(len(samples)) if len(samples) > 1 else torch.full_like(samples[0], math.nan)
    return samples.mean(dim=0), error


def batch_sizes(examples: int, batch_size: int) -> tuple[int, ...]:
    """Sizes of the batches of so many examples; the last may be smaller.

    >>> batch_sizes(10, 4)
    (4, 4, 2)
    """
    return tuple(min(batch_size, examples - start) for start in range(0, examples, batch_size))


def normalized_logits(z: Tensor) -> Tensor:
    """Logits (B, classes) of mean 0 and L2 norm 1 per example; constant ones become 0.

    Source: Andriushchenko et al., 2023, arXiv:2302.07011, and its code tml-epfl/sharpness-vs-generalization.
    """
    centered = z - z.mean(dim=-1, keepdim=True)
    lengths: Tensor = torch.linalg.vector_norm(centered, dim=-1, keepdim=True)
    return centered / lengths.clamp_min(1e-10)


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards each layer is in the mode it was in."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
