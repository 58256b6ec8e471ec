"""The comparison of `fedsam bench`: every way runs every workload, in turns, several times; medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.benchmarks.contenders import Way
from experiments.benchmarks.files import Files
from experiments.benchmarks.measurement import Measurement, measure
from experiments.benchmarks.ways.task import Vector
from experiments.benchmarks.workloads import Workload
from fedsam.imports import ROOT


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        ways: By name.
        rounds: Of each run whose clients train; the first one counts as start-up.
        repeats: Runs of each way.
        pythons: Interpreters of ways that have one of their own, by name.
    """

    workloads: Sequence[Workload]
    ways: Mapping[str, Way]
    rounds: int
    repeats: int
    pythons: Mapping[str, Path]

    def runs(self) -> Iterator[tuple[int, Workload, str]]:
        """Repeat, workload and name of the way of each run, in order: all ways take turns, so that a busy time of the machine hits all."""
        for repeat in range(1, self.repeats + 1):
            for workload in self.workloads:
                for name, way in self.ways.items():
                    if way.can(workload.clients, workload.trains):
                        yield repeat, workload, name


@dataclass(frozen=True)
class Run:
    """A measured run of a way, by name; `weights` are its final ones (P,)."""

    workload: Workload
    way: str
    measurement: Measurement
    weights: Vector


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Medians over the runs of a way: seconds of a round and of the start, CPU seconds of a client, and the largest memory in bytes."""

    round_seconds: float
    cpu_seconds: float
    start_seconds: float
    memory: int


def compare(plan: Plan, files: Files, progress: Callable[[str], None]) -> list[Run]:
    """Measure all runs of a plan. Raises `WayError` where one fails."""
    total = len(list(plan.runs()))
    return [
        _run(plan, files, workload, name, f"run {number}/{total} {workload.name} {name}", progress)
        for number, (_, workload, name) in enumerate(plan.runs(), 1)
    ]


def _run(plan: Plan, files: Files, workload: Workload, name: str, title: str, progress: Callable[[str], None]) -> Run:
    way, rounds = plan.ways[name], workload.rounds(plan.rounds)
    progress(title)
    task, file = files.task(way, workload, rounds), files.folder / "task.json"
    task.write(file)
    found = measure(
        way.command(plan.pythons.get(name), files.actors, file),
        task,
        folder=files.bare_modules() if way.bare else ROOT,
        log=files.folder / "log",
        mark=lambda round: progress(f"{title}, round {round}/{rounds}"),
    )
    return Run(workload, name, found, np.load(task.weights))


def summaries(runs: Sequence[Run]) -> dict[tuple[str, str], Summary]:
    """Medians, by the names of workload and way."""
    grouped: dict[tuple[str, str], list[Measurement]] = {}
    for run in runs:
        grouped.setdefault((run.workload.name, run.way), []).append(run.measurement)
    return {
        key: Summary(
            round_seconds=statistics.median(seconds for one in found for seconds in one.round_seconds),
            cpu_seconds=statistics.median(one.cpu_seconds for one in found),
            start_seconds=statistics.median(one.start_seconds for one in found),
            memory=max(one.memory for one in found),
        )
        for key, found in grouped.items()
    }
