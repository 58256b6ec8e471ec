"""What a run will take, before it starts: work and bytes from its settings, time from short trials on the actors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import torch
from flwr.app import Message

from clients import runtime
from experiments.running.grids import ActorGroup
from experiments.settings.catalogue import sampler
from experiments.settings.method import Method
from experiments.settings.method_cost import cost
from fedsam.config import Experiment
from fedsam.data.augmentation import normalize
from fedsam.data.datasets import Dataset
from fedsam.data.federated import partition_examples
from fedsam.messages import codec
from fedsam.models.network import Network
from strategies import ServerRule
from strategies.round import RunError

LOOKED_AT = 100  # rounds whose cohorts stand for all
PROBE_SECONDS = 0.5  # of local training, after as much to warm up


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


def load(experiment: Experiment, dataset: Dataset, network: Network) -> Load:
    """What a run of the experiment will take, but for time. Raises `ConfigError` if the partition cannot be drawn."""
    client, sample, method = experiment.client, sampler(experiment), cost(experiment)
    sizes = np.array([len(part) for part in partition_examples(experiment, dataset)])
    full = -(-sizes // client.batch_size)  # batches of an epoch
    steps = np.full_like(sizes, client.steps) if client.steps else client.epochs * full
    trained = steps * sizes / np.maximum(full, 1)  # the last batch of an epoch may be smaller
    cohorts = [list(sample(round)) for round in range(1, min(experiment.rounds, LOOKED_AT) + 1)]
    cohort, passed = mean(map(len, cohorts)), mean(float(trained[members].sum()) for members in cohorts)
    evaluations = method.gradient_evaluations_per_step * passed
    rounds = min(experiment.rounds, math.ceil(experiment.budget / evaluations)) if experiment.budget else experiment.rounds
    median = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    vectors, item = method.down + method.up, network.initial.element_size()
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
    """Forecasts of runs from short trainings and measurements on the actors, one for each kind of them."""

    def __init__(self, group: ActorGroup) -> None:
        self._group = group
        self._seconds: dict[object, float] = {}

    def forecast(self, experiment: Experiment) -> Forecast:
        """What a run of the experiment will take.

        Raises:
            ConfigError: The partition cannot be drawn, or the optimizer does not fit the network.
            DataError: The dataset cannot be had.
            RunError: A client failed.
        """
        dataset = self._group(experiment)[1]
        network = runtime.network(experiment, dataset, torch.device("cpu"), runtime.DTYPES[experiment.compute.precision])
        method = Method.of(experiment)
        method.optimizer.check(network.layout)
        ahead = load(experiment, dataset, network)
        parts = (experiment.client.optimizer, experiment.client.correction)
        model = (experiment.model.model_dump_json(), experiment.compute.precision, dataset.name)
        kind = (*model, *(part.model_dump_json() for part in parts), ahead.batch)
        flat = experiment.measure.flatness
        step = self._once(kind, lambda: self._step_seconds(experiment, method.rule, network, ahead))
        one = self._once(model, lambda: _evaluation_seconds(experiment, network, dataset))
        flatness = self._once((*model, flat.model_dump_json()), lambda: self._flatness_seconds(experiment, method.rule, network, ahead))
        times = 1 + (ahead.rounds - 1) // flat.every if flat.every else 1
        trained = ahead.steps * step
        at_once = min(self._group.size, max(1.0, ahead.cohort))
        return Forecast(ahead, trained, trained / at_once + ahead.evaluations * one + times * flatness)

    def _once(self, key: object, measure: Callable[[], float]) -> float:
        if key not in self._seconds:
            self._seconds[key] = measure()
        return self._seconds[key]

    def _step_seconds(self, experiment: Experiment, rule: ServerRule, network: Network, ahead: Load) -> float:
        """Seconds of a local step of a median client: two steps show how many there is time for."""
        usual, steps, seconds = round(ahead.steps / (ahead.rounds * ahead.cohort)), 2, 0.0
        for _ in range(2):
            (reply,) = self._ask(experiment, rule, network, ahead.client, "speed", [{"steps": steps}])
            seconds = float(reply["metrics"]["seconds"])
            steps = max(2, min(usual, int(PROBE_SECONDS / seconds)))
        return seconds

    def _flatness_seconds(self, experiment: Experiment, rule: ServerRule, network: Network, ahead: Load) -> float:
        """Seconds of measuring flatness once, from the same with a batch of examples."""
        settings = experiment.measure.flatness
        few = min(settings.examples, settings.batch_size)
        measure = experiment.measure.model_copy(update={"flatness": settings.model_copy(update={"examples": few})})
        asked: list[dict[str, int | str]] = [{"measure": name} for name in settings.measures]
        replies = self._ask(experiment.model_copy(update={"measure": measure}), rule, network, ahead.client, "flatness", asked)
        seconds = sum(float(reply["cost"]["seconds"]) for reply in replies) * settings.examples / few
        return seconds / max(1, min(self._group.size, len(asked)))

    def _ask(
        self,
        experiment: Experiment,
        rule: ServerRule,
        network: Network,
        client: int,
        action: str,
        asked: Sequence[Mapping[str, int | str]],
    ) -> list[Mapping[str, Any]]:
        """The answers of a client to queries about the initial vectors."""
        w, grid = network.initial, self._group(experiment)[0]
        vectors = {**rule.broadcast(w, rule.init_state(w)), **({"buffers": network.buffers} if network.buffers.numel() else {})}
        record, answers = codec.arrays(vectors), list[Mapping[str, Any]]()
        node = list(grid.get_node_ids())[client]
        queries = [Message(codec.encode_query(record, 1, query), dst_node_id=node, message_type=f"query.{action}") for query in asked]
        for reply in grid.send_and_receive(queries):
            if reply.has_error():
                raise RunError(f"client {client} failed before the first round (seed {experiment.seed}): {reply.error.reason}")
            answers.append(reply.content)
        return answers


def _evaluation_seconds(experiment: Experiment, network: Network, dataset: Dataset) -> float:
    """Seconds of evaluating one example, from the second of two batches."""
    x, seconds = dataset.test.x[: experiment.measure.batch_size], 0.0
    with torch.no_grad(), network.evaluating():
        for _ in range(2):
            start = time.perf_counter()
            network(network.initial, normalize(x, dataset.mean, dataset.std, network.initial.dtype))
            seconds = time.perf_counter() - start
    return seconds / len(x)
