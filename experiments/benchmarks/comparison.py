"""The comparison of `fedsam bench`: every way runs every workload, in turns, several times; medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.benchmarks.contenders import FLOOR, Way
from experiments.benchmarks.files import Files
from experiments.benchmarks.measurement import Measurement, WayError, measure
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

    def runs(self) -> Iterator[tuple[Workload, str]]:
        """Workload and name of the way of each run, in order: all ways take turns, so that a busy time of the machine hits all."""
        for _ in range(self.repeats):
            for workload in self.workloads:
                yield from ((workload, name) for name, way in self.ways.items() if way.can(workload))


@dataclass(frozen=True)
class Run:
    """A measured run of a way, by name; `weights` are its final ones (P,)."""

    workload: Workload
    way: str
    measurement: Measurement
    weights: Vector


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Of the runs of a way, the medians of seconds and CPU seconds, the largest memory and load; the fields are those of `Measurement`."""

    round_seconds: float
    cpu_seconds: float
    start_seconds: float
    memory: int
    other_load: float


def compare(plan: Plan, files: Files, progress: Callable[[str], None], failed: Callable[[str], None]) -> list[Run]:
    """Measure the runs of a plan; one that fails is left out, and `failed` is told why."""
    wanted, runs = list(plan.runs()), list[Run]()
    for number, (workload, name) in enumerate(wanted, 1):
        title = f"run {number}/{len(wanted)}: {workload.name}, {name}"
        try:
            runs.append(_run(plan, files, workload, name, title, progress))
        except (WayError, FileNotFoundError) as error:  # or it left no weights
            failed(f"{title}: {error}")
    return runs


def _run(plan: Plan, files: Files, workload: Workload, name: str, title: str, progress: Callable[[str], None]) -> Run:
    way, rounds = plan.ways[name], workload.rounds(plan.rounds)
    progress(title)
    task, file = files.task(way, workload, rounds), files.folder / "task.json"
    task.write(file)
    found = measure(
        way.command(plan.pythons.get(name), task.actors, file),
        task,
        folder=files.bare_modules() if way.bare else ROOT,
        log=files.folder / "log",
        mark=lambda round: progress(f"{title}, round {round}/{rounds}"),
    )
    return Run(workload, name, found, np.load(task.weights))


def differences(runs: Sequence[Run], workload: Workload, ways: Mapping[str, Way]) -> dict[str, float]:
    """How far the final weights of each way that does the floor's very work are from the floor's: the largest difference of a weight."""
    final = {run.way: run.weights for run in runs if run.workload == workload}
    same = [name for name in final if name != FLOOR and ways[name].optimizer == "sgd" and ways[name].draws_same(workload)]
    return {name: float(np.abs(final[name] - final[FLOOR]).max()) for name in same} if FLOOR in final else {}


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
            other_load=max(one.other_load for one in found),
        )
        for key, found in grouped.items()
    }
