"""Costs against counts by hand, and a made-up NVML."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedsam.models.network import Network
from fedsam.system.cost import FlopCounter, Flops, Meter, count_flops, gpu_energy


def test_flops_are_those_by_hand() -> None:
    network = Network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)))
    convolution, linear = 2 * (2 * 4 * 4) * (1 * 3 * 3), 2 * 32 * 3
    forward = convolution + linear
    # Backward: each layer's weights, and the input of all but the first.
    assert count_flops(network, (1, 6, 6)) == Flops(forward, forward + convolution + 2 * linear)


class Attention(nn.Module):
    """The rows of an image attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        return functional.scaled_dot_product_attention(x, x, x).flatten(1)


def test_attention_is_two_matrix_products() -> None:
    products = 2 * (2 * 4 * 6 * 4)
    assert count_flops(Network(Attention()), (1, 4, 6)) == Flops(products, 3 * products)


@pytest.mark.parametrize("layer", [nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), nn.GRU(6, 5, batch_first=True)])
def test_the_counter_counts_what_torchs_own_does(layer: nn.Module) -> None:
    x, totals = torch.rand(2, 4, 6), []
    for counter in (FlopCounter(), FlopCounterMode(display=False)):
        with sdpa_kernel(SDPBackend.MATH), counter:
            result = layer(x)
            (result[0] if isinstance(layer, nn.GRU) else result).sum().backward()
        totals.append(counter.total if isinstance(counter, FlopCounter) else counter.get_total_flops())
    assert totals[0] == totals[1] > 0


COUNT = """
import sys
from torch import nn
from fedsam.models.network import Network
from fedsam.system.cost import count_flops

count_flops(Network(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))), (1, 2, 2))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def test_counting_imports_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_counting_leaves_the_network_as_it_was() -> None:
    network = Network(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)))
    w, buffers, drawn = network._storage.clone(), network.buffers, torch.random.get_rng_state()
    count_flops(network, (1, 6, 6))
    assert torch.equal(network._storage, w) and torch.equal(network.buffers, buffers)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert network.module.training and all(parameter.grad is None for parameter in network.parameters)


def test_a_total_weighs_the_two_kinds_of_passes() -> None:
    assert Flops(10, 30).total(gradient_evaluations=4, forward_evaluations=5) == 170


def test_a_meter_reads_what_went_by() -> None:
    joules = iter([100.0, 112.5])
    reading = Meter(lambda: next(joules)).read()
    assert reading.energy == 12.5
    assert reading.seconds >= 0
    assert Meter().read().energy is None


class NVMLError(Exception):
    """As NVML's."""


def nvml(millijoules: list[Iterator[int]], missing: str = "") -> Any:
    """A made-up pynvml with a counter for each GPU, in which the function `missing` fails."""

    def known(name: str, value: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if name == missing:
                raise NVMLError(f"{name}: not supported")
            return value(*arguments)

        return call

    functions = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: len(millijoules),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: next(millijoules[gpu]),
    }
    return SimpleNamespace(NVMLError=NVMLError, **{name: known(name, value) for name, value in functions.items()})


def test_energy_is_that_of_all_gpus_in_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml([iter([1000, 2000, 2500]), iter([500, 500, 4500])]))
    meter = Meter(gpu_energy())
    assert meter.read().energy == 4.5


@pytest.mark.parametrize("missing", ["nvmlInit", "nvmlDeviceGetTotalEnergyConsumption"])
def test_without_nvml_or_its_counter_there_is_no_energy(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml([iter([1])], missing))
    assert gpu_energy() is None


def test_without_a_gpu_there_is_no_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml([]))
    assert gpu_energy() is None
