"""Flower's Array of a tensor that encodes only when its bytes are needed: an update that is added up where it was made needs none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from flwr.app import Array
from numpy.typing import NDArray
from torch import Tensor


class TensorArray(Array):
    """A copy of a tensor on the CPU; its bytes, its pickle and its object id are those of `Array(tensor)`."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor: Tensor | None = tensor.detach().to("cpu", copy=True)
        self._data = b""
        self.dtype, self.shape, self.stype = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), "numpy.ndarray"

    @property
    def data(self) -> bytes:
        """The encoded tensor; it replaces the tensor."""
        tensor = self._tensor
        if tensor is not None:
            self._data = Array(tensor.numpy()).data
            self._tensor = None
        return self._data

    @data.setter
    def data(self, value: bytes) -> None:
        self._data, self._tensor = value, None

    def tensor(self) -> Tensor:
        """The tensor, not to be changed."""
        tensor = self._tensor
        return torch.from_numpy(super().numpy()) if tensor is None else tensor

    def numpy(self) -> NDArray[Any]:
        """A copy of the tensor."""
        tensor = self._tensor
        return super().numpy() if tensor is None else tensor.numpy().copy()

    def deflate(self) -> bytes:
        """As a plain Array: what Flower's runtime sends names the class that decodes it."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[Callable[..., Array], tuple[Any, ...]]:
        return Array, (self.dtype, self.shape, self.stype, self.data)
