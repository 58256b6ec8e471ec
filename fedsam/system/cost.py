"""Counters of floating-point operations, seconds, joules, and CPU time of other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from fedsam.models.narrow import as_written
from fedsam.models.network import Network

EnergyCounter = Callable[[], float]  # joules so far


class Flops(NamedTuple):
    """Floating-point operations of the passes of a network over one example.

    Convolutions, matrix products and attention count, a multiplication and an addition as two; element-wise operations and the vectors of
    the local optimizer do not.

    Attributes:
        forward: Of a forward pass.
        gradient: Of a forward and a backward pass.
    """

    forward: int
    gradient: int

    def total(self, *, gradient_evaluations: int, forward_evaluations: int) -> int:
        """The operations of so many evaluations.

        This is an upper bound for methods that skip tensors in backward passes, or make several of them for one forward pass.
        """
        return self.gradient * gradient_evaluations + self.forward * forward_evaluations


class FlopCounter(TorchDispatchMode):
    """Adds up the operations of what runs inside the block, by the formulas of `torch.utils.flop_counter.FlopCounterMode`.

    That one imports torch's compiler, which takes seconds.

    Attributes:
        total: So far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to keep the compiler away from here it would be imported

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils.flop_counter import flop_registry

        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count_flops(network: Network, image: tuple[int, ...]) -> Flops:
    """Count the operations of the passes of a network over an image (C, H, W); parameters and statistics are unchanged."""
    x = torch.zeros(1, *image, device=network.initial.device, dtype=network.initial.dtype)
    # The counter knows the matrix products of attention, not the fused kernels.
    with network.evaluating(), sdpa_kernel(SDPBackend.MATH), as_written():
        with FlopCounter() as forward:
            logits = network.module(x)
        with FlopCounter() as backward:
            torch.autograd.grad(logits.sum(), network.parameters, allow_unused=True)
    return Flops(forward.total, forward.total + backward.total)


@dataclass(frozen=True)
class Reading:
    """Time and energy since a `Meter` was created.

    Attributes:
        seconds: Wall time.
        energy: Joules; None where there is no counter.
    """

    seconds: float
    energy: float | None


class Meter:
    """Measures time and energy from its creation.

    Args:
        energy: A counter of joules, such as `gpu_energy` returns; None: energy is not measured.
    """

    def __init__(self, energy: EnergyCounter | None = None) -> None:
        self._counter = energy
        self._joules = energy() if energy else 0.0
        self._start = time.perf_counter()

    def read(self) -> Reading:
        """Time and energy since the creation."""
        seconds = time.perf_counter() - self._start
        return Reading(seconds, self._counter() - self._joules if self._counter else None)


def gpu_energy() -> EnergyCounter | None:
    """A counter of the joules of all GPUs of this machine, shared with other users; None where NVML or its counters are missing."""
    import pynvml

    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        for gpu in gpus:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
    except pynvml.NVMLError:
        return None
    return (lambda: sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in gpus) / 1000) if gpus else None  # in millijoules


class OtherProcesses:
    """Measures from its creation how much CPU time of this machine other processes take than this one and those that it started."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """CPU time of other processes divided by that of all CPUs."""
        there = (time.perf_counter() - self._start) * (psutil.cpu_count() or 1)
        others = _busy_seconds() - self._busy - (_own_seconds() - self._own)
        return min(max(others / there, 0.0), 1.0)


def _busy_seconds() -> float:
    """CPU seconds of all processes of this machine, and those that a hypervisor took from it."""
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for name, seconds in times.items() if name not in ("idle", "iowait", "guest", "guest_nice")))


def _own_seconds() -> float:
    """CPU seconds of this process and those below it."""
    process, total = psutil.Process(), 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended
            total += sum(one.cpu_times()[:4])  # user, system, and the same of its children that have ended
    return total
