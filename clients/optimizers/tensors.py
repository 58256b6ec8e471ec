"""Parts of a vector and of a batch: one tensor, or a few examples, at a time.

Legend: `v: (..., P)` a vector, `v_k: (..., p_k)` the part of it that holds tensor k; a batch holds labels (..., B); "..." are client axes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clients.objective import Batch
from fedsam.models.flat import Layout, Segment


def tensorwise(rule: Callable[..., Tensor], layout: Layout, *vectors: Tensor) -> Tensor:
    """A vector (..., P) made of `rule(segment, *parts)` for each tensor; a rule may give one number per tensor, (..., 1)."""
    return torch.cat([_spread(rule, segment, *(v[..., segment.slice] for v in vectors)) for segment in layout.segments], dim=-1)


def piece(batch: Batch, start: int, stop: int) -> Batch:
    """The examples of each client from `start` up to `stop`, or up to the last."""
    client_axes = (slice(None),) * (batch.y.ndim - 1)
    index = (*client_axes, slice(start, stop))
    return Batch(batch.x[index], batch.y[index])


def _spread(rule: Callable[..., Tensor], segment: Segment, *parts: Tensor) -> Tensor:
    return rule(segment, *parts).expand_as(parts[0])
