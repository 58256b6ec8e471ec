"""One run in progress: its rounds, what is measured after them, the rows and the model that it leaves."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from clients import runtime
from experiments.callbacks.callback import Callback
from experiments.running import judging
from experiments.running.checkpointing import Checkpointer
from experiments.running.client_rows import client_row, failed_row
from experiments.running.evaluation import VALIDATION, Evaluator
from experiments.running.judging import Judge
from experiments.running.result import Result
from experiments.running.soundness import at_chance, check_finite, finish
from experiments.settings.catalogue import sampler
from experiments.settings.method import Method
from fedsam.config import ConfigError, Experiment
from fedsam.data.datasets import Dataset
from fedsam.grid.base import LocalGrid
from fedsam.grid.process import torch_threads
from fedsam.messages import aggregation, codec
from fedsam.models.network import Network
from fedsam.results.final import nonfinite
from fedsam.results.model_files import FINAL_MODEL_NAME, keep_model, round_name
from fedsam.results.rows import Row, Slice
from fedsam.results.store import Results
from fedsam.schedules import LocalRate, known_rounds
from fedsam.system.cost import OtherProcesses, count_flops, gpu_energy
from fedsam.system.heterogeneity import ClientLoad, Heterogeneity
from strategies.cohort import CohortStrategy
from strategies.flower_cohort import FlowerCohort
from strategies.robust import FlowerRule
from strategies.round import RoundConfig, RoundResult

DROPPED = "dropped out (simulated)"  # status of a client


class _EndedEarlyError(Exception):
    """The budget is reached or patience is over: what ends Flower's loop, which knows of rounds alone."""


class Session:
    """One run in progress: the strategy, the network that evaluates, and where rows go.

    Attributes:
        rows: The rounds that are evaluated so far.
        spent: Gradient evaluations of all rounds so far.
        validated: Validation accuracies so far, where `measure.patience` looks at them.
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
        judge: Judge | None = None,
    ) -> None:
        self.experiment, self.method, self.dataset, self.grid = experiment, method, dataset, grid
        self.results, self.run_id, self.callback, self.judge = results, run_id, callback, judge
        self.rows: list[Row] = []
        self.spent = 0
        self.validated: list[float] = []
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
        self.checkpoints = self._checkpointer()
        self._stored = len(results.rounds(run_id, clients=False))  # rounds that an earlier process left

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
            with suppress(_EndedEarlyError), torch_threads(self.experiment.compute.cpus_per_actor):
                self._go_on()
                if left := self.experiment.rounds - self.strategy.resumed_round:
                    self.strategy.start(self.grid, codec.arrays(initial), left, timeout=deadline, evaluate_fn=self._evaluate)
        except BaseException as error:
            if self.checkpoints:
                self.checkpoints.stop()
            if isinstance(error, Exception):
                finish(self.grid)  # the rounds before the error are kept, and the actors are free for the next run
            raise
        budget = self.experiment.budget
        if budget is not None and self.spent < budget and not self._is_patience_over():
            note = f"rounds: all {len(self.rows)} are over after {self.spent} gradient evaluations of a budget of {budget}"
            self.callback.warn(self.run_id, note)
        self._save(FINAL_MODEL_NAME)
        return Result(self.run_id, tuple(self.rows), self.strategy.evaluated, self.network.module, self.experiment.measure.last)

    def _network(self) -> Network:
        gpu = self.experiment.compute.gpus_per_actor > 0 and torch.cuda.is_available()
        dtype = runtime.DTYPES[self.experiment.compute.precision]
        return runtime.network(self.experiment, self.dataset, torch.device("cuda" if gpu else "cpu"), dtype)

    def _checkpointer(self) -> Checkpointer | None:
        """None where the clients' states are not on a grid of ours."""
        if not isinstance(self.grid, LocalGrid):
            return None
        tell, warn = partial(self.callback.checkpointed, self.run_id), partial(self.callback.warn, self.run_id)
        return Checkpointer(self.experiment, self.run_id, self.results, self.strategy, self.grid, tell, warn)

    def _go_on(self) -> None:
        """Go on after the round of the latest checkpoint, where there is one."""
        found = self.checkpoints.restore() if self.checkpoints else None
        if found is not None:
            self.rows, row = found
            self.spent = sum(row.gradient_evaluations for row in self.rows)
            if self.experiment.measure.patience is not None:
                self.validated = [accuracy for row in self.rows if (accuracy := row.measures.get(VALIDATION)) is not None]
            self.callback.resumed(self.run_id, tuple(self.rows))
            for earlier in self.rows:
                judging.ask(self.judge, earlier)
            self._end_round(row)

    def _evaluate(self, _: int, __: ArrayRecord) -> MetricRecord | None:
        if self.strategy.last is None:
            if not self.strategy.resumed_round:
                self.results.record_startup(self.run_id, time.perf_counter() - self._started)
            return None
        row, round = self._row(self.strategy.last), self.strategy.last.round
        for client, what in (*self.strategy.last.retried.items(), *self.strategy.last.evaluate_retried.items()):
            self.callback.warn(self.run_id, f"client {client} in round {round} was asked again: it {what.splitlines()[0]}")
        self._end_round(row)
        return None

    def _end_round(self, row: Row) -> None:
        """Have a round evaluated, whose training `row` tells, and note its end.

        Raises:
            _EndedEarlyError: The run ends with it.
            PrunedError: The judge ends the run.
        """
        if not aggregation.usable(evaluated := self.strategy.evaluated):
            row = replace(row, measures={**row.measures, "nonfinite_parameters": int((~torch.isfinite(evaluated)).sum())})
        if self.experiment.measure.patience is not None:
            row = self.evaluator.validate(row, self.strategy.evaluated, self.strategy.buffers)
            self.validated += [accuracy] if (accuracy := row.measures.get(VALIDATION)) is not None else []
        last, lost = self._is_last(row), nonfinite(row)
        self.spent += row.gradient_evaluations
        self.evaluator.evaluate(row, self.strategy.evaluated, self.strategy.buffers, self._keep, last=last)
        if isinstance(self.grid, LocalGrid):
            self.grid.await_background(0 if last or lost or not self._may_overlap(row.round) else 1)
        if self.experiment.checkpoint.every and row.round % self.experiment.checkpoint.every == 0:
            self._save(round_name(row.round))
        if self.checkpoints:
            self.checkpoints.end_round(row)
        # Actors of a Ray that others started are no processes of ours, and so would count as others'.
        if last and isinstance(self.grid, LocalGrid) and self.experiment.compute.ray_address is None:
            self.results.record_other_cpu(self.run_id, self._others.share())
        if self.judge is not None:
            judging.ask(self.judge, self.rows[-1], last=last)
        if last and row.round < self.experiment.rounds:
            raise _EndedEarlyError

    def _may_overlap(self, round: int) -> bool:
        """Whether the next round may train while this one is evaluated.

        It may not where a client may be late for that, where energy is counted, which would be that of both, where flatness is measured,
        by which queries an actor is held up for long, and where a judge waits for what is measured.
        """
        flat = any(query.action == "flatness" for query in self.evaluator.due(round, last=False))
        waits = self.experiment.server.deadline is not None or self.strategy.round_config.energy is not None or self.judge is not None
        return not waits and not flat

    def _keep(self, row: Row, slices: Sequence[Slice]) -> None:
        """Store a round with its measures and tell of it; not one after a round that was not stored or that diverged, which is an error."""
        if row.round > len(self.rows) + 1 or any(map(nonfinite, self.rows[-1:])):
            return
        self.results.append_round(row, replace=row.round <= self._stored)
        for found in slices:
            self.results.add_slice(found)
        self.rows.append(row)
        self.callback.round(row)
        check_finite(row, self.strategy.round_config)
        if note := at_chance(self.experiment, self.method.optimizer, self.dataset.classes, row):
            self.callback.warn(self.run_id, note)

    def _is_last(self, row: Row) -> bool:
        """Whether the run ends with this round, whose training `row` tells; it is not among `rows` yet."""
        budget = self.experiment.budget
        spent = budget is not None and self.spent + row.gradient_evaluations >= budget
        return spent or row.round == self.experiment.rounds or self._is_patience_over()

    def _is_patience_over(self) -> bool:
        """Whether the last `measure.patience` validation accuracies were no better than one before them."""
        patience = self.experiment.measure.patience
        return (
            patience is not None and len(self.validated) > patience and max(self.validated[-patience:]) <= max(self.validated[:-patience])
        )

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
        path = Path(self.experiment.runs_dir) / self.run_id / name
        self.network.buffers = self.strategy.buffers
        self.network.load_(self.strategy.evaluated)
        keep_model(self.network.module, path, self.dataset.image, self.dataset.classes, partial(self.callback.warn, self.run_id))


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
