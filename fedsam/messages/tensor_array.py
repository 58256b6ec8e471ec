"""Flower's Array of a tensor that encodes only when its bytes are needed: what stays on this machine needs none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from flwr.app import Array
from numpy.typing import NDArray
from torch import Tensor


class TensorArray(Array):
    """A copy of a tensor on the CPU; its bytes and its object id are those of `Array(tensor)`.

    Its pickle holds the numbers as they are, so that Ray's actors read them where they lie in shared memory.
    """

    _values: NDArray[Any] | None

    def __init__(self, tensor: Tensor) -> None:
        self._hold(tensor.detach().to("cpu", copy=True).numpy())

    @property
    def data(self) -> bytes:
        """The encoded tensor; it replaces the tensor."""
        values = self._values
        if values is not None:
            self._data = Array(values).data
            self._values = None
        return self._data

    @data.setter
    def data(self, value: bytes) -> None:
        self._data, self._values = value, None

    def tensor(self) -> Tensor:
        """The tensor, not to be changed."""
        values = self._values
        if values is None:
            return torch.from_numpy(super().numpy())
        if not values.flags.writeable:  # in shared memory: torch would warn of it with every call
            values = self._values = values.copy()
        return torch.from_numpy(values)

    def numpy(self) -> NDArray[Any]:
        """A copy of the tensor."""
        values = self._values
        return super().numpy() if values is None else values.copy()

    def deflate(self) -> bytes:
        """As a plain Array: what Flower's runtime sends names the class that decodes it."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[Callable[..., Array], tuple[Any, ...]]:
        values = self._values
        return (Array, (self.dtype, self.shape, self.stype, self.data)) if values is None else (_holding, (values,))

    def _hold(self, values: NDArray[Any]) -> None:
        # Past `Array.__setattr__`, which notes each change of an array that is encoded.
        shape, dtype = tuple(values.shape), str(values.dtype)
        self.__dict__.update(_values=values, _data=b"", dtype=dtype, shape=shape, stype="numpy.ndarray", _is_dirty=True)


def _holding(values: NDArray[Any]) -> TensorArray:
    array = TensorArray.__new__(TensorArray)
    array._hold(values)
    return array
