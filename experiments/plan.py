"""What a comparison will take, before it starts: its runs, which of them are there already, and estimates of work, bytes and time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import torch
from flwr.app import Message

import strategies
from clients import workplace
from experiments import labels
from experiments.catalogue import resolved, sampler
from experiments.costs import cost
from experiments.grids import Crew, Shelf
from fedsam import wire
from fedsam.config import Experiment
from fedsam.datasets import Dataset, normalize
from fedsam.federation import deal
from fedsam.network import Network
from fedsam.provenance import provenance
from fedsam.results import Results, config_hash
from fedsam.rows import Run

LOOKED_AT = 100  # rounds whose cohorts stand for all
PROBE_SECONDS = 0.5  # of local training, after as much to warm up


@dataclass(frozen=True)
class Planned:
    """An experiment of a comparison.

    Attributes:
        plain: Its settings, the defaults of its parts included.
        label: What its method is called.
        found: Its run, where one has finished.
    """

    experiment: Experiment
    plain: Mapping[str, Any]
    label: str
    found: Run | None


@dataclass(frozen=True)
class Load:
    """What one run will take.

    Attributes:
        steps: Local steps of all clients.
        size: Bytes down and up.
        client: A client of median size, from 0.
        batch: Examples of its batches.
        evaluations: Examples that are evaluated.
    """

    rounds: int
    cohort: float
    steps: float
    gradient_evaluations: float
    size: float
    client: int
    batch: int
    evaluations: int


@dataclass(frozen=True)
class Forecast:
    """What one run will take, in time too.

    Attributes:
        client_seconds: Of local training, sum over clients.
        seconds: From its start to its end.
    """

    load: Load
    client_seconds: float
    seconds: float


def plan(experiments: Sequence[Experiment], shelf: Shelf, results: Results | None) -> list[Planned]:
    """The experiments, each once, with their runs in `results` that have finished.

    Raises:
        ConfigError: A setting of any of them is wrong.
        DataError: A dataset cannot be had.
    """
    plains = [resolved(experiment) for experiment in experiments]
    once = {(config_hash(plain), e.seed): (e, plain) for e, plain in zip(experiments, plains, strict=True)}
    found = {key: _finished(results, *key, shelf.get(e).name) for key, (e, _) in once.items()} if results else {}
    names = _labels([plain for _, plain in once.values()])
    return [Planned(e, plain, name, found.get(key)) for (key, (e, plain)), name in zip(once.items(), names, strict=True)]


def _finished(results: Results, config_hash: str, seed: int, dataset: str) -> Run | None:
    return next((run for run in results.same(config_hash, seed, dataset) if run.status == "finished"), None)


def _labels(plains: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each method is called among the others, as in reports."""
    flat = [dict(labels.leaves(plain)) for plain in plains]
    names = [settings["name"] or settings.get("method", "") for settings in flat]
    return [labels.label(s, [f for f, other in zip(flat, names, strict=True) if other == name], name) for s, name in zip(flat, names, strict=True)]


def made_elsewhere(planned: Sequence[Planned]) -> list[str]:
    """Notes on finished runs that other code or other versions made than what runs here."""
    here = provenance()
    runs = [one.found for one in planned if one.found]
    commits = sorted({run.git_commit for run in runs} - {here.git_commit})
    changed = sorted({name for run in runs for name, version in run.versions.items() if here.versions.get(name) != version})
    notes = [f"some were made by commit {', '.join(commits)}, and this is {here.git_commit}"] if commits else []
    return notes + ([f"some were made with other versions of {', '.join(changed)}"] if changed else [])


def load(experiment: Experiment, dataset: Dataset, network: Network) -> Load:
    """What a run of the experiment will take, but for time. Raises `ConfigError` if the partition cannot be drawn."""
    client, sample, passes = experiment.client, sampler(experiment), cost(experiment)
    sizes = np.array([len(part) for part in deal(experiment, dataset)])
    full = -(-sizes // client.batch_size)  # batches of an epoch
    steps = np.full_like(sizes, client.steps) if client.steps else client.epochs * full
    trained = steps * sizes / np.maximum(full, 1)  # the last batch of an epoch may be smaller
    cohorts = [list(sample(round)) for round in range(1, min(experiment.rounds, LOOKED_AT) + 1)]
    cohort, evaluations = mean(map(len, cohorts)), passes.gradients * mean(float(trained[members].sum()) for members in cohorts)
    rounds = min(experiment.rounds, math.ceil(experiment.budget / evaluations)) if experiment.budget else experiment.rounds
    median = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    vectors, item = passes.down + passes.up, network.initial.element_size()
    evaluated = math.ceil(rounds / experiment.measure.every) * len(dataset.test.y)
    return Load(
        rounds=rounds,
        cohort=cohort,
        steps=rounds * mean(float(steps[members].sum()) for members in cohorts),
        gradient_evaluations=rounds * evaluations,
        size=rounds * cohort * item * (vectors * network.layout.size + 2 * network.buffers.numel()),
        client=median,
        batch=min(client.batch_size, int(sizes[median])),
        evaluations=evaluated + int(sizes.sum()) * experiment.measure.union,
    )


class Probe:
    """Forecasts of runs, from short trainings on the actors: one for each kind of local step."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._steps: dict[object, float] = {}
        self._evaluations: dict[object, float] = {}

    def forecast(self, experiment: Experiment) -> Forecast:
        """What a run of the experiment will take. Raises `ConfigError` or `DataError` where it cannot run."""
        grid, dataset = self._crew(experiment)
        network = workplace.network(experiment, dataset, torch.device("cpu"), workplace.DTYPES[experiment.compute.precision])
        ahead = load(experiment, dataset, network)
        client, place = experiment.client, (experiment.model.model_dump_json(), experiment.compute.precision, dataset.name)
        kind = (*place, client.optimizer.model_dump_json(), client.correction.model_dump_json(), ahead.batch)
        if kind not in self._steps:
            self._steps[kind] = _step_seconds(experiment, network, grid, ahead)
        if place not in self._evaluations:
            self._evaluations[place] = _evaluation_seconds(experiment, network, dataset)
        seconds = ahead.steps * self._steps[kind]
        at_once = min(self._crew.size, max(1.0, ahead.cohort))
        return Forecast(ahead, seconds, seconds / at_once + ahead.evaluations * self._evaluations[place])


def _step_seconds(experiment: Experiment, network: Network, grid: Any, ahead: Load) -> float:
    """Seconds of a local step of a median client: two steps show how many there is time for."""
    rule, w = strategies.build(experiment.server.strategy), network.initial
    vectors = {**rule.broadcast(w, rule.init_state(w)), **({"buffers": network.buffers} if network.buffers.numel() else {})}
    record, steps, seconds = wire.arrays(vectors), 2, 0.0
    for _ in range(2):
        content = wire.encode_query(record, 1, {"steps": steps})
        (reply,) = grid.send_and_receive([Message(content, dst_node_id=ahead.client + 1, message_type="query.speed")])
        if reply.has_error():
            raise RuntimeError(f"client {ahead.client} failed to train before the first round: {reply.error.reason}")
        seconds = float(reply.content["metrics"]["seconds"])
        steps = max(2, min(round(ahead.steps / (ahead.rounds * ahead.cohort)), int(PROBE_SECONDS / seconds)))
    return seconds


def _evaluation_seconds(experiment: Experiment, network: Network, dataset: Dataset) -> float:
    """Seconds of evaluating one example, from the second of two batches."""
    x = dataset.test.x[: experiment.measure.batch_size]
    start = 0.0
    with torch.no_grad(), network.evaluating():
        for _ in range(2):
            start = time.perf_counter()
            network(network.initial, normalize(x, dataset.mean, dataset.std, network.initial.dtype))
    return (time.perf_counter() - start) / len(x)
