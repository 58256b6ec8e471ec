"""What every replay of golden cases shares: the model of a case as a module, and deviations in units of the tolerance."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedsam.models.flat import Layout

Case = Mapping[str, Any]
Deviations = Iterable[tuple[str, float]]  # what was compared, and its deviation in units of the tolerance: at most 1 passes
Replay = Callable[[Case, Case], Deviations]  # the file's document, one of its cases


class Unknown(Exception):
    """The case is of a method or a schema that this harness does not know."""


def deviation(got: Tensor | float, want: object, rtol: float, atol: float) -> float:
    """Largest abs(got - want) / (atol + rtol * abs(want)); infinite where a value is no number.

    Raises:
        ValueError: The shapes differ.
    """
    actual, wanted = torch.as_tensor(got, dtype=torch.float64), torch.as_tensor(want, dtype=torch.float64)
    if actual.shape != wanted.shape:
        raise ValueError(f"got shape {tuple(actual.shape)}, want {tuple(wanted.shape)}")
    if not actual.numel():
        return 0.0
    return float(((actual - wanted).abs() / (atol + rtol * wanted.abs())).nan_to_num(nan=torch.inf).max())


def module_of(model: Case) -> nn.Module:
    """The network that `model` describes, with default initial values.

    Raises:
        ValueError: A layer or one of its fields is not known, or the tensors are not those of `model.layout` and `model.buffers`.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    axes = len(model["input_shape"])
    for index, fields in enumerate(model["layers"]):
        rest = dict(fields)
        kind, name = rest.pop("type"), rest.pop("name", f"layer{index}")
        if kind not in LAYERS:
            raise ValueError(f"layer type {kind!r} is not known; known: {', '.join(LAYERS)}")
        layers[name] = LAYERS[kind](axes, rest)
        if rest:
            raise ValueError(f"layer {name}: fields {sorted(rest)} are not known")
        axes = 1 if kind in ("flatten", "globalavgpool") else axes
    module = nn.Sequential(layers)
    _check("layout", Layout.of_module(module), model["layout"])
    _check("buffers", Layout.of_buffers(module), model.get("buffers", []))
    return module


def _check(what: str, layout: Layout, recorded: Iterable[Case]) -> None:
    built = [(s.name, s.shape) for s in layout.segments]
    wanted = [(entry["name"], tuple(entry["shape"])) for entry in recorded]
    if built != wanted:
        raise ValueError(f"model.{what} is {wanted}, but its layers make {built}")


def _linear(axes: int, f: dict[str, Any]) -> nn.Module:
    return nn.Linear(f.pop("in"), f.pop("out"), bias=f.pop("bias", True))


def _conv2d(axes: int, f: dict[str, Any]) -> nn.Module:
    sizes = {"kernel_size": f.pop("kernel"), "stride": f.pop("stride", 1), "padding": f.pop("padding", 0)}
    return nn.Conv2d(f.pop("in"), f.pop("out"), bias=f.pop("bias", True), **sizes)


def _batchnorm(axes: int, f: dict[str, Any]) -> nn.Module:
    norm = nn.BatchNorm2d if axes == 3 else nn.BatchNorm1d
    return norm(f.pop("features"), eps=f.pop("eps", 1e-5), momentum=f.pop("momentum", 0.1))


# Each takes the number of axes of a sample at this point, and pops the fields that it reads.
LAYERS: Mapping[str, Callable[[int, dict[str, Any]], nn.Module]] = {
    "linear": _linear,
    "conv2d": _conv2d,
    "batchnorm": _batchnorm,
    "tanh": lambda axes, f: nn.Tanh(),
    "relu": lambda axes, f: nn.ReLU(),
    "flatten": lambda axes, f: nn.Flatten(),
    "avgpool2d": lambda axes, f: nn.AvgPool2d(f.pop("kernel")),
    "globalavgpool": lambda axes, f: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}


def each_step(expected: Case, name: str, step: int) -> Iterator[Any]:
    """The recorded value of `name` after `step`; nothing when the case records none for it."""
    if name in expected and expected[name][step] is not None:
        yield expected[name][step]
