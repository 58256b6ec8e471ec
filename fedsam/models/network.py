"""A torch module as a function of one parameter vector.

Legend: `w: (P,)` trainable parameters; `buffers: (Q,)` floating-point buffers (running statistics); `x: (B, C, H, W)` images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fedsam.models.flat import Layout


class Network:
    """Runs a module at any parameter vector. The tensors of the module are views of one storage, so loading `w` is one copy.

    Attributes:
        layout: Order, names and shapes of the trainable tensors.
        parameters: Those tensors, leaves of the autograd graph of the last call.
        initial: The parameters (P,) that the module came with.
    """

    def __init__(self, module: nn.Module, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.module = module.to(device=device, dtype=dtype)
        self.layout = Layout.of_module(module)
        self.initial = self.layout.vector(dict(module.named_parameters()))
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._storage = self.initial.clone()
        for parameter, view in zip(self.parameters, self.layout.views(self._storage).values(), strict=True):
            parameter.data = view
        self._buffer_layout = Layout.of_buffers(module)
        self._norms = [layer for layer in module.modules() if isinstance(layer, _NormBase) and layer.track_running_stats]

    @property
    def buffers(self) -> Tensor:
        """A copy of the buffers (Q,); empty for networks without running statistics."""
        return self._buffer_layout.vector(dict(self.module.named_buffers())).to(self._storage)

    @buffers.setter
    def buffers(self, values: Tensor) -> None:
        buffers = dict(self.module.named_buffers())
        for name, view in self._buffer_layout.views(values).items():
            buffers[name].copy_(view)

    def load_(self, w: Tensor) -> None:
        """Copy `w` into the parameters of the module."""
        with torch.no_grad():
            self._storage.copy_(w)

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """Logits (B, classes) at `w`, differentiable with respect to `self.parameters`."""
        self.load_(w)
        logits: Tensor = self.module(x)
        return logits

    def train(self, *, statistics: bool) -> None:
        """Normalize with batch statistics from now on; running statistics are updated only if `statistics`."""
        if not self.module.training:
            self.module.train()
        # Without tracking, a layer normalizes by the batch and leaves its running statistics unchanged. Setting its momentum to 0 instead
        # would save the 0 as the original when done twice.
        for layer in self._norms:
            layer.track_running_stats = statistics

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Normalize with running statistics and drop nothing inside the block."""
        for layer in self._norms:
            layer.track_running_stats = True
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()
