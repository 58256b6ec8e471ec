"""Small objectives for contracts: one formula each, differentiated by autograd, for one client or for several at once.

Legend: `w: (..., P)`; `batch.x: (..., B, features)`; `batch.y: (..., B)`; "..." are client axes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clients.objective import Batch, Counted, Objective
from fedsam.models.flat import Layout, Segment


def layout_of(*tensors: tuple[str, tuple[int, ...]]) -> Layout:
    """The layout of named shapes; tensors called `norm.*` are those of a normalization layer."""
    segments: list[Segment] = []
    for name, shape in tensors:
        start = segments[-1].start + segments[-1].size if segments else 0
        segments.append(Segment(name, shape, start, name.startswith("norm.")))
    return Layout(tuple(segments))


class Formula(Objective):
    """An objective given by its per-example losses and its class scores, both differentiable in w."""

    @abstractmethod
    def losses_at(self, w: Tensor, batch: Batch) -> Tensor:
        """Losses (..., B)."""

    @abstractmethod
    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        """Class scores (..., B, classes)."""

    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        return self.losses_at(w, batch).detach()

    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        w = w.detach().requires_grad_()
        losses = self.losses_at(w, batch)
        rows = torch.full_like(losses, 1 / batch.size).detach() if weights is None else weights
        if rows.ndim == losses.ndim:
            g = _gradient((rows * losses).sum(), w)
        else:
            g = torch.stack([_gradient((row * losses).sum(), w) for row in rows.unbind(dim=-2)], dim=-2)
        if mask is not None:
            g = g * self.layout.per_tensor(torch.tensor(mask))
        return g, losses.detach()

    def distilled(
        self, w: Tensor, batch: Batch, teacher: Tensor, *, temperature: float, weight: float, task: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        w = w.detach().requires_grad_()
        losses = self.losses_at(w, batch)
        student, wanted = (functional.log_softmax(z / temperature, dim=-1) for z in (self.logits(w, batch), teacher.detach()))
        divergence = (wanted.exp() * (wanted - student)).sum(dim=-1).mean(dim=-1)
        return _gradient((task * losses.mean(dim=-1) + weight * divergence).sum(), w), losses.detach()


def _gradient(total: Tensor, w: Tensor) -> Tensor:
    return torch.autograd.grad(total, w, retain_graph=True)[0]


class Quadratic(Formula):
    """Loss of an example x: half of the sum of `curvature * (w - x)**2`; it scores all classes alike."""

    def __init__(self, curvature: Sequence[float], layout: Layout | None = None) -> None:
        self.curvature = torch.tensor(curvature, dtype=torch.float64)
        self.layout = layout or layout_of(("fc.weight", (1,)), ("fc.bias", (len(curvature) - 1,)))

    def losses_at(self, w: Tensor, batch: Batch) -> Tensor:
        return (self.curvature * (w.unsqueeze(-2) - batch.x) ** 2).sum(dim=-1) / 2

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        return 0.0 * w[..., :1, None] + torch.zeros(*batch.y.shape, 2, dtype=w.dtype)


class Softmax(Formula):
    """Cross-entropy of a linear classifier behind a learned scale and shift of the features."""

    def __init__(self, features: int = 3, classes: int = 3) -> None:
        self.layout = layout_of(
            ("norm.weight", (features,)), ("norm.bias", (features,)), ("fc.weight", (classes, features)), ("fc.bias", (classes,))
        )

    def losses_at(self, w: Tensor, batch: Batch) -> Tensor:
        scores = self.logits(w, batch).log_softmax(dim=-1)
        return -scores.gather(-1, batch.y.unsqueeze(-1)).squeeze(-1)

    def logits(self, w: Tensor, batch: Batch) -> Tensor:
        t = self.layout.views(w)
        x = batch.x * t["norm.weight"].unsqueeze(-2) + t["norm.bias"].unsqueeze(-2)
        return x @ t["fc.weight"].transpose(-1, -2) + t["fc.bias"].unsqueeze(-2)


class Recorded(Counted):
    """Remembers the losses (..., B) of all passes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.passes: list[Tensor] = []

    def grad(self, w: Tensor, batch: Batch, *, mask: Sequence[bool] | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        g, losses = super().grad(w, batch, mask=mask, weights=weights)
        self.passes.append(losses)
        return g, losses

    def losses(self, w: Tensor, batch: Batch) -> Tensor:
        losses = super().losses(w, batch)
        self.passes.append(losses)
        return losses

    def distilled(
        self, w: Tensor, batch: Batch, teacher: Tensor, *, temperature: float, weight: float, task: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        g, losses = super().distilled(w, batch, teacher, temperature=temperature, weight=weight, task=task)
        self.passes.append(losses)
        return g, losses

    def has(self, losses: Tensor) -> bool:
        """Whether each of the losses is one that a pass gave."""
        return bool(torch.isin(losses, torch.cat([given.flatten() for given in self.passes])).all())


def random_batches(count: int, size: int = 8, *, seed: int = 0, features: int = 3, classes: int = 3) -> list[Batch]:
    """Batches of a fixed random classification task."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, size, features, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (count, size), generator=generator)
    return [Batch(*pair) for pair in zip(x, y, strict=True)]
