"""Loss scaling for float16 (torch.amp.GradScaler) in steps of several passes.

`GradScaler.step` knows of one backward pass per step and takes no closure. Here every pass has its loss scaled and its gradient unscaled.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from fedsam.config import ConfigError


class OverflowedError(ArithmeticError):
    """A scaled gradient is not finite."""


class LossScaling:
    """The scaling of one step."""

    def __init__(self, scaler: GradScaler) -> None:
        self._scaler = scaler
        self._passes: list[Any] = []  # the scaler knows them by their address until its `update`

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale."""
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def unscaled(self, parameters: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients divided by the scale. Raises `OverflowedError` if one is not finite, which the scaler has noted then."""
        for parameter, g in zip(parameters, grads, strict=True):
            parameter.grad = None if g is None else g.clone()  # several may be one tensor
        one_pass = SimpleNamespace(param_groups=[{"params": list(parameters)}])
        self._passes.append(one_pass)
        self._scaler.unscale_(one_pass)  # type: ignore[arg-type]  # it reads `param_groups` alone
        found = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        finite = [g.isfinite().all() for g in found if g is not None]
        if self._scaler.is_enabled() and finite and not bool(torch.stack(finite).all()):  # one answer of the device for all tensors
            raise OverflowedError
        return found


_noticed = threading.local()


@contextmanager
def refused_scaling() -> Iterator[None]:
    """Raises `ConfigError` where a loss was scaled inside the block: a gradient tells nobody by what it was multiplied."""
    _watch()
    _noticed.scaled = False
    yield
    if _noticed.scaled:
        raise ConfigError(
            "closure: calls GradScaler.scale, which is not allowed: return the loss as it is, do not call backward, and give the scaler to "
            "step(closure, scaler=scaler)"
        )


@functools.cache
def _watch() -> None:
    """Have `GradScaler.scale` leave word, for the thread that calls it; torch has no hook for that."""
    scale = GradScaler.scale

    @functools.wraps(scale)
    def watched(self: GradScaler, outputs: Any) -> Any:
        if self.is_enabled():
            _noticed.scaled = True
        return scale(self, outputs)

    GradScaler.scale = watched  # type: ignore[method-assign]
