"""Benchmark of the time of a local step of each method, relative to a step of SGD.

    python -m experiments.benchmarks.optimizers [--steps 10] [--batch 64] [--threads 1] [--data-root DIR] [--methods sgd,sam,...]

CIFAR-10, `resnet18` with GroupNorm. Every contender takes a step on the same batch before any takes the next, so that a machine that
slows down slows all. Warm-up steps are left out. Steps of a method that differ in passes (LookSAM, vSAM) are medians by themselves,
weighed as they occur over whole periods. `torch sgd` is torch.optim.SGD with a module, `torch(...)` the method through `as_torch`.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clients.objective import Batch, Counted, NetworkObjective
from clients.optimizers import as_torch, build
from clients.optimizers.base import LocalOptimizer, Task
from fedsam.config import Component
from fedsam.data import augmentation, datasets
from fedsam.models.architectures import resnet18
from fedsam.models.network import Network
from fedsam.seeds import stream, tensor_stream

LR = 0.01
VSAM = {"window": 10, "blocks": 2, "warmup_steps": 10}
Evaluations = tuple[float, float]
Step = Callable[[Batch], Evaluations | None]


@dataclass(frozen=True)
class Way:
    """A contender.

    Attributes:
        make: Gives a function that takes a step and tells its evaluations (forward, gradient) per example, if they are counted.
        period: Steps after which its kinds of step repeat.
        warmup: Steps before the first that counts.
        reference: The contender that its time is a multiple of.
        limit: Largest multiple wanted.
    """

    make: Callable[[nn.Module], Step]
    period: int = 1
    warmup: int = 2
    reference: str = "sgd"
    limit: float | None = None


@dataclass
class StepTimes:
    """Seconds of a contender's steps, by the evaluations of the step."""

    seconds: dict[Evaluations | None, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def taken(self) -> int:
        """Steps that count."""
        return sum(map(len, self.seconds.values()))

    @property
    def step(self) -> float:
        """Seconds of a step: medians of its kinds, weighed by their number."""
        return sum(statistics.median(times) * len(times) for times in self.seconds.values()) / self.taken

    @property
    def evaluations(self) -> Evaluations | None:
        """Mean forward and gradient evaluations per example and step."""
        kinds = [(kind, len(times)) for kind, times in self.seconds.items() if kind is not None]
        return (sum(k[0] * n for k, n in kinds) / self.taken, sum(k[1] * n for k, n in kinds) / self.taken) if kinds else None


def _rule(name: str, **settings: Any) -> LocalOptimizer:
    return build(Component.model_validate({"name": name, "lr": LR, **settings}))


def method(name: str, **settings: Any) -> Callable[[nn.Module], Step]:
    """A local optimizer as the federation runs it."""
    rule = _rule(name, **settings)

    def make(module: nn.Module) -> Step:
        network = Network(module)
        counted, rng, w = Counted(NetworkObjective(network)), np.random.default_rng(0), network.initial
        state = rule.init(w, Task())

        def step(batch: Batch) -> Evaluations:
            nonlocal w, state
            before = counted.forward, counted.backward
            w, state, _ = rule.step(w, state, counted, batch, rng)
            return (counted.forward - before[0]) / batch.size, (counted.backward - before[1]) / batch.size

        return step

    return make


def in_torch(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> Callable[[nn.Module], Step]:
    """A stock training loop of a torch optimizer."""

    def make(module: nn.Module) -> Step:
        optimizer = make_optimizer(module)

        def step(batch: Batch) -> None:
            def closure() -> float:
                optimizer.zero_grad()
                loss: Tensor = cross_entropy(module(batch.x), batch.y)
                loss.backward()
                return loss  # type: ignore[return-value]  # as torch's own examples do

            optimizer.step(closure)

        return step

    return make


WAYS: dict[str, Way] = {
    "sgd": Way(method("sgd")),
    "sam": Way(method("sam"), limit=2.1),
    "asam": Way(method("asam")),
    "msam": Way(method("msam"), limit=1.05),
    "fsam": Way(method("fsam"), limit=2.1),
    "esam": Way(method("esam", beta=0.6, gamma=0.5), limit=1.6),
    "looksam": Way(method("looksam", k=5), period=5, limit=1.35),
    # No step of the first window after the warm-up is sampled.
    "vsam": Way(method("vsam", **VSAM), period=10, warmup=VSAM["warmup_steps"] + VSAM["window"] - 1, limit=1.6),
    "multistep_sam": Way(method("multistep_sam")),
    "torch sgd": Way(in_torch(lambda module: torch.optim.SGD(module.parameters(), lr=LR))),
    "torch(sgd)": Way(in_torch(lambda module: as_torch(_rule("sgd"), module)), reference="torch sgd", limit=1.05),
    "torch(sam)": Way(in_torch(lambda module: as_torch(_rule("sam"), module)), reference="torch sgd", limit=2.1),
}


def batches(size: int, root: Path | None) -> Iterator[Batch]:
    """Batches of CIFAR-10, augmented, without end."""
    dataset = datasets.load("cifar10", root)
    order, rng = stream(0, "batches"), tensor_stream(0, "augment")
    while True:
        index = torch.from_numpy(order.choice(len(dataset.train.y), size, replace=False))
        x = augmentation.normalize(dataset.train.x[index], dataset.mean, dataset.std)
        yield Batch(augmentation.augment(x, dataset.augment, rng), dataset.train.y[index])


def measure(ways: dict[str, Way], module: nn.Module, source: Iterator[Batch], steps: int) -> dict[str, StepTimes]:
    """Interleaved steps of all contenders, each until its whole periods amount to at least `steps`."""
    run = {name: way.make(copy.deepcopy(module)) for name, way in ways.items()}
    wanted = {name: -(-steps // way.period) * way.period for name, way in ways.items()}
    clocks = {name: StepTimes() for name in ways}
    total = max(ways[name].warmup + wanted[name] for name in ways)
    for number in range(total):
        batch = next(source)
        for name, way in ways.items():
            # The last steps of all contenders fall together: a warm-up is taken before, by itself.
            if number < total - way.warmup - wanted[name]:
                continue
            start = time.perf_counter()
            kind = run[name](batch)
            seconds = time.perf_counter() - start
            if number >= total - wanted[name]:
                clocks[name].seconds[kind].append(seconds)
        print(f"step {number + 1} of {total}", file=sys.stderr)
    return clocks


def report(ways: dict[str, Way], clocks: dict[str, StepTimes]) -> Table:
    """The comparison as a table."""
    table = Table("method", "seconds", "ratio", "to", "forward", "gradient", "limit", "", title="A local step; evaluations per example")
    for name, clock in clocks.items():
        way, evaluations = ways[name], clock.evaluations
        ratio = clock.step / clocks[way.reference].step
        counts = (f"{evaluations[0]:.2f}", f"{evaluations[1]:.2f}") if evaluations else ("", "")
        verdict = ("", "") if way.limit is None else (f"{way.limit:.2f}", "pass" if ratio <= way.limit else "miss")
        table.add_row(name, f"{clock.step:.3f}", f"{ratio:.3f}", way.reference, *counts, *verdict)
    return table


def chosen(methods: str) -> dict[str, Way]:
    """The contenders named, and those that they are compared with. Raises `typer.BadParameter` for an unknown one."""
    names = [name.strip() for name in methods.split(",")] if methods else list(WAYS)
    unknown = [name for name in names if name not in WAYS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not known; allowed: {', '.join(WAYS)}")
    needed = {*names, *(WAYS[name].reference for name in names), "sgd"}
    return {name: way for name, way in WAYS.items() if name in needed}


def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps of each method that count, rounded up to whole periods.")] = 10,
    batch: Annotated[int, typer.Option(min=2, help="Examples per step.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the CIFAR-10 files.")] = None,
    methods: Annotated[str, typer.Option(help="Which ones, with commas between; default: all.")] = "",
) -> None:
    """Measure and print the table, and the seconds of all steps as one line of JSON."""
    ways = chosen(methods)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clocks = measure(ways, resnet18((3, 32, 32), 10), batches(batch, data_root), steps)
    Console().print(report(ways, clocks))
    times = {name: {str(kind): seconds for kind, seconds in clock.seconds.items()} for name, clock in clocks.items()}
    print(json.dumps({"batch": batch, "threads": threads, "seconds": times}))


if __name__ == "__main__":
    typer.run(main)
