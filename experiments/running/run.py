"""One run in progress: its rounds, what is measured after them, the rows and the model that it leaves."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor, nn

from clients import runtime
from experiments.running.chance import at_chance
from experiments.running.client_rows import client_row, failed_row
from experiments.running.evaluation import Evaluator
from experiments.running.progress import Callback
from experiments.settings.catalogue import sampler
from experiments.settings.method import Method
from fedsam.config import ConfigError, Experiment
from fedsam.data.datasets import Dataset
from fedsam.formatting import plural
from fedsam.grid.base import LocalGrid
from fedsam.grid.process import torch_threads
from fedsam.messages import aggregation, codec
from fedsam.models.network import Network
from fedsam.results.final import final_measures
from fedsam.results.model_files import save_model
from fedsam.results.rows import Row, Slice, as_table
from fedsam.results.store import Results
from fedsam.schedules import LocalRate, known_rounds
from fedsam.system.cost import OtherProcesses, count_flops, gpu_energy
from fedsam.system.heterogeneity import ClientLoad, Heterogeneity
from strategies.cohort import CohortStrategy
from strategies.flower_cohort import FlowerCohort
from strategies.robust import FlowerRule
from strategies.round import RoundConfig, RoundResult

DROPPED = "dropped out (simulated)"  # status of a client


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run; accuracy, loss and gap are those of its report.

    Attributes:
        run_id: Its id in the results file.
        rows: One per round.
        w: The final model's parameters (P,), in `Layout` order.
        model: The network with these parameters.
        last: Evaluations that the final accuracy is the mean of, `measure.last`.
    """

    run_id: str
    rows: tuple[Row, ...]
    w: Tensor
    model: nn.Module
    last: int

    def __repr__(self) -> str:
        found = {"accuracy": self.accuracy, "loss": self.loss, "gap": self.gap}
        values = "".join(f", {name}={value:.4g}" for name, value in found.items() if value is not None)
        return f"Result({self.run_id!r}, {plural(len(self.rows), 'round')}{values})"

    @property
    def measures(self) -> Mapping[str, float]:
        """Final value of each measure, as of `final_measures`."""
        return final_measures(self.rows, self.last)

    @property
    def accuracy(self) -> float:
        """Final test accuracy (a fraction): the mean of the last evaluations."""
        return self.measures["test_accuracy"]

    @property
    def loss(self) -> float:
        """Final test loss (nats): the mean of the last evaluations."""
        return self.measures["test_loss"]

    @property
    def gap(self) -> float | None:
        """Accuracy on the clients' examples minus test accuracy, of the final model; None where `measure.union` is false."""
        return self.measures.get("gap")

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The rounds as a table, a dict for each: what `pandas.DataFrame` takes."""
        return as_table(self.rows)


class _BudgetSpentError(Exception):
    """The budget is reached: what ends Flower's loop, which knows of rounds alone."""


class Session:
    """One run in progress: the strategy, the network that evaluates, and where rows go.

    Attributes:
        rows: The rounds that are evaluated so far.
        spent: Gradient evaluations of all rounds so far.
    """

    def __init__(
        self,
        experiment: Experiment,
        method: Method,
        dataset: Dataset,
        label_distribution: NDArray[Any],
        grid: Grid,
        results: Results,
        run_id: str,
        callback: Callback,
        started: float,
    ) -> None:
        self.experiment, self.method, self.dataset, self.grid = experiment, method, dataset, grid
        self.results, self.run_id, self.callback = results, run_id, callback
        self.rows: list[Row] = []
        self.spent = 0
        self._started = started  # time.perf_counter() when the run began
        self._others = OtherProcesses()
        self.network = self._network()
        method.optimizer.check(self.network.layout)
        if experiment.client.statistics_batches and not self.network.buffers_size:
            raise ConfigError(f"client.statistics_batches: is not allowed here: model {experiment.model.name!r} has no running statistics")
        self.flops = count_flops(self.network, dataset.image)
        self.heterogeneity = Heterogeneity.of(experiment)
        self.strategy = cohort_strategy(experiment, method)
        self.evaluator = Evaluator(experiment, grid, self.network, dataset, label_distribution)

    def run(self) -> Result:
        """All rounds; rows are kept as they come."""
        logging.getLogger("flwr").setLevel(logging.WARNING)
        # The server's vectors stay on the CPU, where updates arrive; only evaluation in this process uses the device.
        w, buffers = self.network.initial.cpu(), self.network.buffers.cpu()
        self.strategy.begin(w.clone(), buffers, self.network.constants)
        initial = {"w": w} | ({"buffers": buffers} if buffers.numel() else {})
        deadline = self.experiment.server.deadline or math.inf
        try:
            # As many threads as a client has: sums of many threads round otherwise, and vectors of this length gain little by them.
            with suppress(_BudgetSpentError), torch_threads(self.experiment.compute.cpus_per_actor):
                self.strategy.start(self.grid, codec.arrays(initial), self.experiment.rounds, timeout=deadline, evaluate_fn=self._evaluate)
        except Exception:
            if isinstance(self.grid, LocalGrid):
                self.grid.finish()  # the rounds before the error are kept, and the actors are free for the next run
            raise
        budget = self.experiment.budget
        if budget is not None and self.spent < budget:
            note = f"rounds: all {len(self.rows)} are over after {self.spent} gradient evaluations of a budget of {budget}"
            self.callback.warn(self.run_id, note)
        self._save("model")
        return Result(self.run_id, tuple(self.rows), self.strategy.evaluated, self.network.module, self.experiment.measure.last)

    def _network(self) -> Network:
        gpu = self.experiment.compute.gpus_per_actor > 0 and torch.cuda.is_available()
        dtype = runtime.DTYPES[self.experiment.compute.precision]
        return runtime.network(self.experiment, self.dataset, torch.device("cuda" if gpu else "cpu"), dtype)

    def _evaluate(self, round: int, _: ArrayRecord) -> MetricRecord | None:
        if self.strategy.last is None:
            self.results.record_startup(self.run_id, time.perf_counter() - self._started)
            return None
        row = self._row(self.strategy.last)
        for client, what in (*self.strategy.last.retried.items(), *self.strategy.last.evaluate_retried.items()):
            self.callback.warn(self.run_id, f"client {client} in round {round} was asked again: it {what.splitlines()[0]}")
        if not aggregation.usable(evaluated := self.strategy.evaluated):
            lost = int((~torch.isfinite(evaluated)).sum())
            row = replace(row, measures={**row.measures, "nonfinite_parameters": lost})
        last = self._is_last(row)
        self.spent += row.gradient_evaluations
        self.evaluator.evaluate(row, self.strategy.evaluated, self.strategy.buffers, self._keep, last=last)
        if isinstance(self.grid, LocalGrid):
            self.grid.await_background(0 if last or not self._may_overlap(round) else 1)
        if self.experiment.checkpoint.every and round % self.experiment.checkpoint.every == 0:
            self._save(f"round-{round:05d}")
        # Actors of a Ray that others started are no processes of ours, and so would count as others'.
        if last and isinstance(self.grid, LocalGrid) and self.experiment.compute.ray_address is None:
            self.results.record_other_cpu(self.run_id, self._others.share())
        if last and round < self.experiment.rounds:
            raise _BudgetSpentError
        return None

    def _may_overlap(self, round: int) -> bool:
        """Whether the next round may train while this one is evaluated.

        It may not where a client may be late for that, where energy is counted, which would be that of both, and where flatness is
        measured, by which queries an actor is held up for long.
        """
        flat = any(query.action == "flatness" for query in self.evaluator.due(round, last=False))
        return self.experiment.server.deadline is None and self.strategy.round_config.energy is None and not flat

    def _keep(self, row: Row, slices: Sequence[Slice]) -> None:
        """Store a round with its measures and tell of it; not one that follows a round that was not stored, because of an error."""
        if row.round > len(self.rows) + 1:
            return
        self.results.append_round(row)
        for found in slices:
            self.results.add_slice(found)
        self.rows.append(row)
        self.callback.round(row)
        if note := at_chance(self.experiment, self.method.optimizer, self.dataset.classes, row):
            self.callback.warn(self.run_id, note)

    def _is_last(self, row: Row) -> bool:
        """Whether the run ends with this round, whose training `row` tells; it is not among `rows` yet."""
        budget = self.experiment.budget
        return row.round == self.experiment.rounds or (budget is not None and self.spent + row.gradient_evaluations >= budget)

    def _row(self, result: RoundResult) -> Row:
        clients = tuple(client_row(client, m, result.evaluate_failures.get(client)) for client, m in result.metrics.items())
        reasons = dict(result.failures) | dict.fromkeys(result.dropped, DROPPED)
        failed = tuple(failed_row(client, what) for client, what in reasons.items())
        retries = len(result.retried) + len(result.evaluate_retried)
        loads = self._loads(result)
        total = {name: sum(int(m[name]) for m in result.metrics.values()) for name in ("gradient-evaluations", "forward-evaluations")}
        rss, device = self.grid.peak_memory() if isinstance(self.grid, LocalGrid) else (0, None)
        examples = [row.examples for row in clients]
        return Row(
            run=self.run_id,
            round=result.round,
            cohort=len(clients),
            failures=len({*reasons, *result.evaluate_failures}),
            examples=sum(examples),
            steps=sum(row.steps for row in clients),
            gradient_evaluations=total["gradient-evaluations"],
            forward_evaluations=total["forward-evaluations"],
            bytes_down=result.bytes_down,
            bytes_up=result.bytes_up,
            flops=sum(load.flops for load in loads.values()),
            client_seconds=sum(row.seconds for row in clients),
            wall_seconds=result.seconds,
            evaluate_seconds=0.0,
            simulated_seconds=self.heterogeneity.round_seconds(loads),
            energy=result.energy,
            peak_rss=rss,
            peak_device_memory=device,
            train_loss=float(np.average([row.train_loss for row in clients], weights=examples)) if clients else math.nan,
            measures={**self.strategy.client_measures, **({"retries": retries} if retries else {})},
            clients=tuple(sorted((*clients, *failed), key=lambda row: row.client)),
        )

    def _loads(self, result: RoundResult) -> dict[int, ClientLoad]:
        """What each client that trained computed and exchanged; all of a cohort receive the same vectors and send as many."""
        trained, asked = len(result.metrics), len(result.metrics) + len(result.failures)
        return {
            client: ClientLoad(
                self.flops.total(
                    gradient_evaluations=int(metrics["gradient-evaluations"]), forward_evaluations=int(metrics["forward-evaluations"])
                ),
                result.bytes_down / asked,
                result.bytes_up / trained,
            )
            for client, metrics in result.metrics.items()
        }

    def _save(self, name: str) -> None:
        path = Path(self.experiment.runs_dir) / self.run_id / f"{name}.safetensors"
        self.network.buffers = self.strategy.buffers
        self.network.load_(self.strategy.evaluated)
        save_model(self.network.module, path, self.dataset.image, self.dataset.classes)


def cohort_strategy(experiment: Experiment, method: Method) -> CohortStrategy:
    """The Flower strategy that runs the experiment's rounds. Raises `ConfigError` where it cannot be."""
    round_config = RoundConfig(
        clients=experiment.data.clients,
        sample=sampler(experiment),
        drops_out=Heterogeneity.of(experiment).drops_out,
        rounds=known_rounds(experiment, "server.strategy", experiment.server.strategy),
        seed=experiment.seed,
        lr=lambda round: method.optimizer.lr * runtime.lr_factor(experiment, method.schedule, round),
        rate=LocalRate(experiment.client.rate_floor),
        weights=experiment.server.weights,
        on_client_error=experiment.server.on_client_error,
        deadline=experiment.server.deadline,
        quorum=experiment.server.quorum,
        shard_size=experiment.compute.shard_size,
        acknowledge=experiment.server.on_client_error != "fail" and bool(method.correction.keeps),
        evaluate_clients=experiment.measure.clients,
        energy=gpu_energy() if experiment.compute.gpus_per_actor > 0 else None,
    )
    return FlowerCohort(method.rule, round_config) if isinstance(method.rule, FlowerRule) else CohortStrategy(method.rule, round_config)
