"""The layout that maps the trainable tensors of a module to one vector and back.

Legend: `w: (..., P)` a parameter vector; leading axes, if any, are clients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # instance norm is a _NormBase


@dataclass(frozen=True)
class Segment:
    """The position of one tensor in the vector.

    Attributes:
        name: As in `module.named_parameters()`.
        shape: Of the tensor.
        start: Index of its first scalar.
        norm: Whether it is an affine parameter of a normalization layer.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    norm: bool = False

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """Its range in the vector."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Layout:
    """The names, shapes and order of the tensors in a vector (P,)."""

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]], norm: frozenset[str] = frozenset()) -> Layout:
        """The layout of named tensors in the given order; `norm` names the affine parameters of normalization layers."""
        segments, start = [], 0
        for name, tensor in tensors:
            segments.append(Segment(name, tuple(tensor.shape), start, name in norm))
            start += tensor.numel()
        return cls(tuple(segments))

    @classmethod
    def of_module(cls, module: nn.Module) -> Layout:
        """The layout of a module's trainable parameters, in `named_parameters()` order."""
        norm = {
            f"{path}.{name}".lstrip(".")
            for path, layer in module.named_modules()
            if isinstance(layer, NORMALIZATIONS)
            for name, _ in layer.named_parameters(recurse=False)
        }
        return cls.of(((n, p) for n, p in module.named_parameters() if p.requires_grad), frozenset(norm))

    @classmethod
    def of_buffers(cls, module: nn.Module) -> Layout:
        """The layout of a module's floating-point buffers (running statistics), in `named_buffers()` order."""
        return cls.of((n, b) for n, b in module.named_buffers() if b.is_floating_point())

    @property
    def size(self) -> int:
        """P, the number of scalars."""
        return sum(segment.size for segment in self.segments)

    def views(self, w: Tensor) -> dict[str, Tensor]:
        """Each tensor as a view of `w` (..., P), shaped (..., *shape)."""
        return {s.name: w[..., s.slice].unflatten(-1, s.shape) if s.shape else w[..., s.start] for s in self.segments}

    def vector(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """A new vector (P,) holding the named tensors."""
        return torch.cat([tensors[s.name].detach().reshape(-1) for s in self.segments]) if self.segments else torch.empty(0)

    def per_tensor(self, values: Tensor) -> Tensor:
        """Repeat one value per tensor (..., T) for each of its scalars: (..., P)."""
        sizes = torch.tensor([s.size for s in self.segments], device=values.device)
        return values.repeat_interleave(sizes, dim=-1, output_size=self.size)
