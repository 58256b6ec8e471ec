"""Forecasts of runs: work and bytes computed from the settings, time measured in short trials on the actors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
from flwr.app import Message

from clients import runtime
from experiments.running.grids import ActorGroup
from experiments.settings.catalogue import CheckedExperiment, sampler
from experiments.settings.method import Method
from experiments.settings.method_cost import cost
from fedsam.config import Experiment
from fedsam.data.datasets import Dataset
from fedsam.data.federated import batch_sizes, partition_examples, validation_examples
from fedsam.messages import codec
from fedsam.models.network import Network
from strategies import ServerRule
from strategies.round import RunError

SAMPLED_ROUNDS = 100  # cohorts of the first rounds, from which the mean work of a round is computed
PROBE_SECONDS = 0.5  # of local training in a trial, after a shorter one to warm up


@dataclass(frozen=True)
class Workload:
    """The work of one run.

    Attributes:
        rounds: At most; fewer where the budget of gradient evaluations ends first.
        cohort: Mean number of clients per round.
        steps: Local steps of all clients in all rounds.
        gradient_evaluations: Of all clients in all rounds.
        bytes: Down and up, of all clients in all rounds.
        median_client: A client of median size, from 0.
        batch_size: Examples in a batch of that client.
        evaluated_examples: Examples passed forward in evaluations.
    """

    rounds: int
    cohort: float
    steps: float
    gradient_evaluations: float
    bytes: float
    median_client: int
    batch_size: int
    evaluated_examples: int


@dataclass(frozen=True)
class Forecast:
    """The work and time of one run.

    Attributes:
        workload: The work.
        client_seconds: Seconds of local training, sum over clients.
        seconds: Seconds from the start to the end of the run.
    """

    workload: Workload
    client_seconds: float
    seconds: float


def workload(experiment: Experiment, method: Method, dataset: Dataset, network: Network) -> Workload:
    """The work of a run of the experiment, whose method is built already. Raises `ConfigError` if the partition cannot be drawn."""
    client, sample, costs = experiment.client, sampler(experiment), cost(method, experiment.rounds)
    sizes = np.array([len(part) for part in partition_examples(experiment, dataset)])
    epochs = [batch_sizes(int(size), client.batch_size, client.last_batch) for size in sizes]
    full = np.array([len(batches) for batches in epochs])
    steps = np.full_like(sizes, client.steps) if client.steps else client.epochs * full
    trained = steps * np.array([sum(batches) for batches in epochs]) / np.maximum(full, 1)  # batches of an epoch may differ in size
    cohorts = [list(sample(round)) for round in range(1, min(experiment.rounds, SAMPLED_ROUNDS) + 1)]
    cohort, passed = mean(map(len, cohorts)), mean(float(trained[members].sum()) for members in cohorts)
    evaluations = costs.gradient_evaluations_per_step * passed
    rounds = min(experiment.rounds, math.ceil(experiment.budget / evaluations)) if experiment.budget else experiment.rounds
    median = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    vectors, item = costs.down + costs.up, network.initial.element_size()
    tested = len(dataset.test.y) if experiment.measure.test else 0
    evaluated = math.ceil(rounds / experiment.measure.every) * (tested + len(validation_examples(experiment, dataset)))
    return Workload(
        rounds=rounds,
        cohort=cohort,
        steps=rounds * mean(float(steps[members].sum()) for members in cohorts),
        gradient_evaluations=rounds * evaluations,
        bytes=rounds * cohort * item * (vectors * network.layout.size + 2 * network.buffers.numel()),
        median_client=median,
        batch_size=min(client.batch_size, int(sizes[median])),
        evaluated_examples=evaluated + (int(sizes.sum()) if experiment.measure.union else 0),
    )


class Forecaster:
    """Makes forecasts from short trainings and measurements on the actors, each done once per kind of run."""

    def __init__(self, group: ActorGroup) -> None:
        self._group = group
        self._seconds: dict[object, float] = {}

    def forecast(self, checked: CheckedExperiment) -> Forecast:
        """Forecast a run of the experiment.

        Raises:
            ConfigError: The partition cannot be drawn, or the optimizer does not fit the network.
            DataError: The dataset cannot be had.
            RunError: A client failed.
        """
        experiment, _, method = checked
        dataset = self._group(experiment)[1]
        network = runtime.network(experiment, dataset, torch.device("cpu"), runtime.DTYPES[experiment.compute.precision])
        method.optimizer.check(network.layout)
        work = workload(experiment, method, dataset, network)
        components = (experiment.client.optimizer, experiment.client.correction)
        model = (experiment.model.model_dump_json(), experiment.compute.precision, dataset.name)
        kind = (*model, *(component.model_dump_json() for component in components), work.batch_size)
        flat = experiment.measure.flatness
        step = self._cached(kind, lambda: self._step_seconds(experiment, method.rule, network, work))
        one = self._cached(model, lambda: self._evaluation_seconds(experiment, method.rule, network))
        flatness = self._cached((*model, flat.model_dump_json()), lambda: self._flatness_seconds(experiment, method.rule, network, work))
        times = 1 + (work.rounds - 1) // flat.every if flat.every else 1
        trained = work.steps * step
        at_once = min(self._group.size, max(1.0, work.cohort))
        return Forecast(work, trained, trained / at_once + work.evaluated_examples * one / self._group.size + times * flatness)

    def _cached(self, key: object, measure: Callable[[], float]) -> float:
        if key not in self._seconds:
            self._seconds[key] = measure()
        return self._seconds[key]

    def _step_seconds(self, experiment: Experiment, rule: ServerRule, network: Network, workload: Workload) -> float:
        """Seconds of a local step of a median client. A first trial of two steps tells how many fit into `PROBE_SECONDS`."""
        usual, steps, seconds = round(workload.steps / (workload.rounds * workload.cohort)), 2, 0.0
        for _ in range(2):
            (reply,) = self._query(experiment, rule, network, workload.median_client, "speed", [{"steps": steps}])
            seconds = reply.metrics["seconds"]
            steps = max(2, min(usual, int(PROBE_SECONDS / seconds)))
        return seconds

    def _evaluation_seconds(self, experiment: Experiment, rule: ServerRule, network: Network) -> float:
        """Seconds of evaluating one example, measured on the second of two batches; of a client's where a run evaluates no others."""
        action = "test" if experiment.measure.test else "validation" if experiment.data.validation else "union"
        for _ in range(2):
            (answer,) = self._query(experiment, rule, network, 0, action, [{"from": 0, "to": 1}])
        examples = answer.metrics["num-examples"] if action == "union" else len(answer.vectors["predicted"])
        return answer.cost["seconds"] / examples

    def _flatness_seconds(self, experiment: Experiment, rule: ServerRule, network: Network, workload: Workload) -> float:
        """Seconds of measuring flatness once, extrapolated from one batch of examples."""
        settings = experiment.measure.flatness
        few = min(settings.examples, settings.batch_size)
        measure = experiment.measure.model_copy(update={"flatness": settings.model_copy(update={"examples": few})})
        queries: list[dict[str, int | str]] = [{"measure": name} for name in settings.measures]
        replies = self._query(
            experiment.model_copy(update={"measure": measure}), rule, network, workload.median_client, "flatness", queries
        )
        seconds = sum(reply.cost["seconds"] for reply in replies) * settings.examples / few
        return seconds / max(1, min(self._group.size, len(queries)))

    def _query(
        self,
        experiment: Experiment,
        rule: ServerRule,
        network: Network,
        client: int,
        action: str,
        queries: Sequence[Mapping[str, int | str]],
    ) -> list[codec.Answer]:
        """Answers of a client to queries about the initial parameters."""
        w, grid = network.initial, self._group(experiment)[0]
        vectors = {**rule.broadcast(w, rule.init_state(w)), **({"buffers": network.buffers} if network.buffers.numel() else {})}
        record, answers = codec.arrays(vectors), list[codec.Answer]()
        node = list(grid.get_node_ids())[client]
        messages = [Message(codec.encode_query(record, 1, query), dst_node_id=node, message_type=f"query.{action}") for query in queries]
        for reply in grid.send_and_receive(messages):
            if reply.has_error():
                raise RunError(f"client {client} failed before the first round (seed {experiment.seed}): {reply.error.reason}")
            answers.append(codec.decode_answer(reply.content))
        return answers
