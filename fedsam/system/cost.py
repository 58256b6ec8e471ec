"""What computing costs: floating-point operations, seconds, joules."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedsam.models.network import Network

EnergyCounter = Callable[[], float]  # joules taken so far


class Flops(NamedTuple):
    """Floating-point operations of a network's passes over one example.

    Those of convolutions, matrix products and attention, a multiplication and an addition counted as two; what works element by element,
    and the local optimizer's own vectors, are left out.

    Attributes:
        forward: Of a forward pass.
        gradient: Of a forward and a backward pass.
    """

    forward: int
    gradient: int

    def total(self, *, gradient_evaluations: int, forward_evaluations: int) -> int:
        """Of so many examples passed forward and backward, and so many passed forward only.

        A method that skips tensors in its backward passes, or makes several of them for one forward pass, costs somewhat less.
        """
        return self.gradient * gradient_evaluations + self.forward * forward_evaluations


def count_flops(network: Network, image: tuple[int, ...]) -> Flops:
    """The cost of a network's passes over an image of shape (C, H, W), by torch's counter; weights and statistics stay as they are."""
    x = torch.zeros(1, *image, device=network.initial.device, dtype=network.initial.dtype)
    # The counter knows attention by its matrix products, not by the fused kernels.
    with network.evaluating(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            logits = network.module(x)
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(logits.sum(), network.parameters, allow_unused=True)
    return Flops(forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops())


@dataclass(frozen=True)
class Reading:
    """What went by.

    Attributes:
        energy: Joules; None where there is no counter.
    """

    seconds: float
    energy: float | None


class Meter:
    """Measures from the moment it is made.

    Args:
        energy: A counter of joules, as `gpu_energy` gives one.
    """

    def __init__(self, energy: EnergyCounter | None = None) -> None:
        self._counter = energy
        self._joules = energy() if energy else 0.0
        self._start = time.perf_counter()

    def read(self) -> Reading:
        """What went by since then."""
        seconds = time.perf_counter() - self._start
        return Reading(seconds, self._counter() - self._joules if self._counter else None)


def gpu_energy() -> EnergyCounter | None:
    """A counter of the joules that all GPUs of this machine take, whoever uses them; None where NVML or its counters are missing."""
    import pynvml

    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        for gpu in gpus:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    except pynvml.NVMLError:
        return None
    return (lambda: sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in gpus) / 1000) if gpus else None  # in millijoules
