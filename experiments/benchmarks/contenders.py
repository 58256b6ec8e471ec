"""The ways that `fedsam bench` compares, and the command that runs each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.benchmarks.workloads import Workload


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to run a workload.

    Attributes:
        module: In `experiments.benchmarks.ways`.
        grid: Of fedsam.
        optimizer: Local optimizer; others than fedsam have SGD alone.
        most_clients: Largest population that it is asked for, because it takes minutes a round with more.
        processes: Whether a launcher starts one process for each actor.
    """

    title: str
    module: str
    grid: Literal["ray", "inline"] = "ray"
    optimizer: str = "sgd"
    most_clients: int | None = None
    processes: bool = False

    @property
    def bare(self) -> bool:
        """Whether it runs without fedsam."""
        return self.module in ("floor", "pfl")

    def can(self, workload: Workload) -> bool:
        """Whether the way is asked for a workload."""
        few = self.most_clients is None or workload.clients <= self.most_clients
        return few and (workload.trains or self.optimizer == "sgd")

    def draws_same(self, workload: Workload) -> bool:
        """Whether its cohorts are those of fedsam: Flower draws its own."""
        return self.module != "flower" or workload.cohort == workload.clients

    def command(self, python: Path | None, actors: int, task: Path) -> list[str]:
        """The command that runs the task in `python`, by default this interpreter."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(actors)] if self.processes else []
        return [str(python or sys.executable), *launcher, "-m", "experiments.benchmarks.ways", self.module, str(task)]


FLOOR = "floor"
WAYS = {
    FLOOR: Way(title="floor: bare PyTorch", module="floor"),
    "ray": Way(title="fedsam, Ray actors", module="fedsam"),
    "inline": Way(title="fedsam, one process", module="fedsam", grid="inline"),
    "sam": Way(title="fedsam, Ray, SAM", module="fedsam", optimizer="sam"),
    "msam": Way(title="fedsam, Ray, MSAM", module="fedsam", optimizer="msam"),
    "flower": Way(title="Flower's runtime", module="flower", most_clients=10_000),
    "pfl": Way(title="pfl-research", module="pfl", processes=True),
}


def chosen_ways(names: Sequence[str]) -> dict[str, Way]:
    """The ways of these names, in the order of `WAYS`."""
    return {name: way for name, way in WAYS.items() if name in names}
