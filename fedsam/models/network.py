"""A torch module as a function of one parameter vector.

Legend: `w: (P,)` trainable parameters; `buffers: (Q,)` floating-point buffers (running statistics); `x: (B, C, H, W)` images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fedsam.models.flat import Layout


class Network:
    """Runs a module at any parameter vector. The tensors of the module are views of one storage, so loading `w` is one copy.

    Server and clients send each other `w` and `buffers`. The module's other tensors, frozen parameters and buffers that are not
    floating-point, are constants: training may change them, and setting `buffers` puts them back.

    Attributes:
        layout: Order, names and shapes of the trainable tensors.
        parameters: Those tensors, leaves of the autograd graph of the last call.
        frozen: The module's other parameters.
        initial: The parameters (P,) that the module came with.
    """

    def __init__(self, module: nn.Module, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.module = module._apply(lambda t: t.to(device, dtype if t.is_floating_point() else None))  # `to` would make complex ones real
        self.layout = Layout.of_module(module)
        self.initial = self.layout.vector(dict(module.named_parameters()))
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.frozen = [p for p in module.parameters() if not p.requires_grad]
        self._storage = self.initial.clone()
        for parameter, view in zip(self.parameters, self.layout.views(self._storage).values(), strict=True):
            parameter.data = view
        self._buffer_layout = Layout.of_buffers(module)
        self._places = _places(module)
        self._norms = [layer for layer in module.modules() if isinstance(layer, _NormBase) and layer.track_running_stats]
        self._own_buffers = own_buffers(module)
        convolves = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
        # On the CPU convolutions and pooling are faster with the channels last in memory (experiments/benchmarks/NOTES.md).
        self._channels_last = convolves and self.initial.device.type == "cpu"
        travelling = {s.name for layout in (self.layout, self._buffer_layout) for s in layout.segments}
        self._constants = {name: self._tensor(name).detach().clone() for name in self._places if name not in travelling}

    @property
    def buffers(self) -> Tensor:
        """A copy of the buffers (Q,); empty for networks without running statistics."""
        return self._buffer_layout.vector({s.name: self._tensor(s.name) for s in self._buffer_layout.segments}).to(self._storage)

    @buffers.setter
    def buffers(self, values: Tensor) -> None:
        if not self.buffers_size and not self._constants:
            return
        with torch.no_grad():
            for name, value in (*self._buffer_layout.views(values).items(), *self._constants.items()):
                self._tensor(name).copy_(value)

    @property
    def buffers_size(self) -> int:
        """Q, the number of scalars in the buffers."""
        return self._buffer_layout.size

    @property
    def constant_names(self) -> list[str]:
        """The module's tensors that do not travel."""
        return list(self._constants)

    @cached_property
    def constants(self) -> str | None:
        """Digest (SHA-256) of the names, types and values of the tensors that do not travel; None where there are none."""
        digest = hashlib.sha256()
        for name, tensor in self._constants.items():
            digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest() if self._constants else None

    def _tensor(self, name: str) -> Tensor:
        tensor: Tensor = getattr(*self._places[name])
        return tensor

    def load_(self, w: Tensor) -> None:
        """Copy `w` into the parameters of the module."""
        with torch.no_grad():
            self._storage.copy_(w)

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """Logits (B, classes) at `w`, differentiable with respect to `self.parameters`."""
        self.load_(w)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last if self._channels_last else torch.contiguous_format)
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
    def still(self) -> Iterator[None]:
        """Passes inside the block leave the buffers of a user's own layers as they are; `train` does that for torch's layers."""
        with still(self._own_buffers):
            yield

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


def exact_on_gpus() -> None:
    """Have GPUs compute with all bits of float32, and have their convolutions give equal bits for equal inputs, from now on.

    Otherwise torch lets convolutions round their inputs to 10 bits of mantissa (TF32), and take algorithms that add up in any order.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True


def own_buffers(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The buffers of layers that torch does not know, each as layer and name; those of BatchNorm and InstanceNorm are torch's."""
    return [
        (layer, name) for layer in module.modules() if not isinstance(layer, _NormBase) for name, _ in layer.named_buffers(recurse=False)
    ]


@contextmanager
def still(buffers: Sequence[tuple[nn.Module, str]]) -> Iterator[None]:
    """Passes inside the block leave these buffers as they are, which a layer's own running statistics may be: it gets copies of them."""
    kept = [(layer, name, layer._buffers[name]) for layer, name in buffers]
    for layer, name, buffer in kept:
        layer._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for layer, name, buffer in kept:
            layer._buffers[name] = buffer


def _places(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The layer of each parameter and buffer, and its name there."""
    layers = dict(module.named_modules())
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    split = {name: name.rpartition(".") for name in names}
    return {name: (layers[path], last) for name, (path, _, last) in split.items()}
