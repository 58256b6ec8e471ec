"""Running experiments: the Flower ServerApp, and `run`, which brings its own grid."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import save_file
from torch import Tensor, nn

import strategies
from clients import app as client_app
from clients import corrections, optimizers
from experiments.catalogue import resolved, sampler
from experiments.grids import grids
from experiments.progress import Quiet, Watch
from fedsam import datasets, partition, wire
from fedsam.config import ConfigError, Experiment
from fedsam.datasets import Dataset
from fedsam.evaluate import evaluate
from fedsam.federation import deal
from fedsam.grid import LocalGrid
from fedsam.network import Network
from fedsam.provenance import provenance
from fedsam.results import Results
from fedsam.rows import ClientRow, Row
from strategies.cohort import CohortStrategy, FlowerCohort
from strategies.flower import FlowerRule
from strategies.plan import Exchange, Plan

app = ServerApp()


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        run_id: Its id in the results file.
        rows: One per round.
        w: The final model's parameters (P,), in `Layout` order.
        model: The network with these parameters.
    """

    run_id: str
    rows: tuple[Row, ...]
    w: Tensor
    model: nn.Module

    @property
    def accuracy(self) -> float:
        """Test accuracy (a fraction) after the last round."""
        return self.rows[-1].measures["test_accuracy"]


@dataclass(frozen=True)
class Outcome:
    """How a run of several ended: `finished`, `failed` or `interrupted`."""

    run_id: str | None
    status: str
    error: str | None = None


def run(experiment: Experiment, watch: Watch | None = None) -> Result:
    """Run one experiment on the grid that it names, and keep its results.

    >>> from experiments import Experiment, run
    >>> run  # doctest: +ELLIPSIS
    <function run at ...>

    Raises:
        ConfigError: A setting is wrong; nothing has started.
        DataError: The dataset cannot be had.
        RunError: A client failed or diverged; the rounds before it are kept.
    """
    resolved(experiment)
    watch = watch or Quiet()
    watch.plan([experiment])
    with grids([experiment]) as grid_of:
        return serve(experiment, *grid_of(experiment), watch)


def run_all(experiments: Sequence[Experiment], watch: Watch) -> list[Outcome]:
    """Run experiments one after another on the same actors; a failed one does not stop the others.

    Raises:
        ConfigError: A setting of any of them is wrong; nothing has started.
        KeyboardInterrupt: The user stopped it; the rounds finished so far are kept.
    """
    for experiment in experiments:
        resolved(experiment)
    watch.plan(experiments)
    outcomes = []
    with grids(experiments) as grid_of:
        for experiment in experiments:
            try:
                outcomes.append(Outcome(serve(experiment, *grid_of(experiment), watch).run_id, "finished"))
            except ConfigError:
                raise
            except Exception as error:  # recorded with the run; the other runs go on and the exit code tells
                outcomes.append(Outcome(getattr(error, "run_id", None), "failed", str(error)))
    return outcomes


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The ServerApp: runs the experiment in the run config on whatever grid it is given."""
    experiment = Experiment.model_validate_json(str(context.run_config["experiment"]))
    serve(experiment, grid, datasets.load(experiment.data.dataset, experiment.data.root, experiment.data.fallback), Quiet())


def serve(experiment: Experiment, grid: Grid, dataset: Dataset, watch: Watch) -> Result:
    """Run one experiment on a grid: rounds, evaluation, results. Raises as `run`."""
    plain = resolved(experiment)
    holdings = partition.class_counts(dataset.train.y.numpy(), deal(experiment, dataset), dataset.classes)
    if isinstance(grid, LocalGrid):
        grid.weigh(holdings.sum(axis=1).tolist())
        grid.note = watch.note
    with Results.open(experiment.runs_dir) as results:
        run_id = results.start(
            experiment, plain, dataset=dataset.name, holdings=holdings, provenance=provenance(gpu=experiment.compute.gpus_per_actor > 0)
        )
        watch.started(run_id, experiment)
        if dataset.name != experiment.data.dataset:
            watch.note(f"dataset {experiment.data.dataset} cannot be had: this run uses {dataset.name} instead")
        _warn(experiment, holdings.sum(axis=1), watch)
        try:
            session = Session(experiment, dataset, grid, results, run_id, watch)
            result = session.run()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            status, what = ("interrupted", "stopped by the user") if interrupted else ("failed", f"{type(error).__name__}: {error}")
            results.finish(run_id, "interrupted" if interrupted else "failed", what)
            watch.finished(run_id, status, what)
            error.run_id = run_id  # type: ignore[attr-defined]
            raise
        results.finish(run_id, "finished")
        watch.finished(run_id, "finished", None)
    return result


def _warn(experiment: Experiment, examples: Any, watch: Watch) -> None:
    """Say where the optimizer, afresh in every round, has too few local steps to be what it is."""
    client = experiment.client
    steps = client.steps or client.epochs * -(-int(np.median(examples)) // client.batch_size)
    reason = optimizers.build(client.optimizer).degenerate(steps)
    if reason and client.optimizer_state == "fresh":
        watch.note(f"client.optimizer: {reason} (a median client has {steps} local steps a round; client.optimizer_state is fresh)")


class Session:
    """One run in progress: the strategy, the network that evaluates, and where rows go."""

    def __init__(self, experiment: Experiment, dataset: Dataset, grid: Grid, results: Results, run_id: str, watch: Watch) -> None:
        self.experiment, self.dataset, self.grid = experiment, dataset, grid
        self.results, self.run_id, self.watch = results, run_id, watch
        self.rows: list[Row] = []
        self.network = self._network()
        optimizers.build(experiment.client.optimizer).check(self.network.layout)
        self.strategy = cohort_strategy(experiment)

    def run(self) -> Result:
        """All rounds; rows are kept as they come."""
        logging.getLogger("flwr").setLevel(logging.WARNING)
        # The server's vectors stay on the CPU, where updates arrive; only evaluation uses the device.
        w, buffers = self.network.initial.cpu(), self.network.buffers.cpu()
        self.strategy.begin(w.clone(), buffers)
        initial = {"w": w} | ({"buffers": buffers} if buffers.numel() else {})
        deadline = self.experiment.server.deadline or math.inf
        self.strategy.start(self.grid, wire.arrays(initial), self.experiment.rounds, timeout=deadline, evaluate_fn=self._evaluate)
        self._save("model")
        return Result(self.run_id, tuple(self.rows), self.strategy.evaluated, self.network.module)

    def _network(self) -> Network:
        gpu = self.experiment.compute.gpus_per_actor > 0 and torch.cuda.is_available()
        dtype = client_app.DTYPES[self.experiment.compute.precision]
        return client_app.network(self.experiment, self.dataset, torch.device("cuda" if gpu else "cpu"), dtype)

    def _evaluate(self, round: int, _: ArrayRecord) -> MetricRecord | None:
        exchange, due = self.strategy.last, round % self.experiment.measure.every == 0 or round == self.experiment.rounds
        if exchange is None:
            return None
        start = time.perf_counter()
        measures = self._measures() if due else {}
        row = self._row(exchange, measures, time.perf_counter() - start if due else 0.0)
        for client, what in exchange.retried.items():
            self.watch.note(f"client {client} in round {round} was asked again: it {what.splitlines()[0]}")
        self.results.append(row)
        self.rows.append(row)
        self.watch.round(row)
        if self.experiment.checkpoint.every and round % self.experiment.checkpoint.every == 0:
            self._save(f"round-{round:05d}")
        return None

    def _measures(self) -> dict[str, float]:
        device = self.network.parameters[0].device
        w, buffers = self.strategy.evaluated.to(device), self.strategy.buffers.to(device)
        test = evaluate(self.network, w, buffers, self.dataset.test, self.dataset, self.experiment.measure.batch_size)
        return {"test_accuracy": test.accuracy, "test_loss": test.loss}

    def _row(self, exchange: Exchange, measures: dict[str, float], evaluate_seconds: float) -> Row:
        clients = tuple(_client_row(client, m) for client, m in exchange.metrics.items())
        failed = tuple(_failed_row(client, what) for client, what in exchange.failures.items())
        total = {name: sum(int(m[name]) for m in exchange.metrics.values()) for name in ("gradient-evaluations", "forward-evaluations")}
        rss, device = self.grid.peak_memory() if isinstance(self.grid, LocalGrid) else (0, None)
        examples = [row.examples for row in clients]
        return Row(
            run=self.run_id,
            round=exchange.round,
            cohort=len(clients),
            failures=len(failed),
            examples=sum(examples),
            steps=sum(row.steps for row in clients),
            gradient_evaluations=total["gradient-evaluations"],
            forward_evaluations=total["forward-evaluations"],
            bytes_down=exchange.bytes_down,
            bytes_up=exchange.bytes_up,
            client_seconds=sum(row.seconds for row in clients),
            wall_seconds=exchange.seconds,
            evaluate_seconds=evaluate_seconds,
            peak_rss=rss,
            peak_device_memory=device,
            train_loss=float(np.average([row.train_loss for row in clients], weights=examples)),
            measures=measures | dict(self.strategy.client_measures) | ({"retries": len(exchange.retried)} if exchange.retried else {}),
            clients=tuple(sorted((*clients, *failed), key=lambda row: row.client)),
        )

    def _save(self, name: str) -> None:
        folder = Path(self.experiment.runs_dir) / self.run_id
        folder.mkdir(parents=True, exist_ok=True)
        self.network.buffers = self.strategy.buffers
        self.network.load_(self.strategy.evaluated)
        partial = folder / f".{name}.partial"
        # Parameters are views of one storage, which safetensors refuses to write: copy them apart.
        save_file({key: tensor.detach().cpu().clone() for key, tensor in self.network.module.state_dict().items()}, partial)
        partial.replace(folder / f"{name}.safetensors")


def cohort_strategy(experiment: Experiment) -> CohortStrategy:
    """The shell that holds the experiment's rounds. Raises `ConfigError` where a part cannot be built."""
    rule, optimizer = strategies.build(experiment.server.strategy), optimizers.build(experiment.client.optimizer)
    plan = Plan(
        clients=experiment.data.clients,
        sample=sampler(experiment),
        rounds=experiment.rounds,
        seed=experiment.seed,
        lr=lambda round: optimizer.lr * client_app.lr_factor(experiment, round),
        weights=experiment.server.weights,
        on_client_error=experiment.server.on_client_error,
        deadline=experiment.server.deadline,
        quorum=experiment.server.quorum,
        shard_size=experiment.compute.shard_size,
        acknowledge=experiment.server.on_client_error != "fail" and bool(corrections.build(experiment.client.correction).keeps),
        evaluate_clients=experiment.measure.clients,
    )
    return FlowerCohort(rule, plan) if isinstance(rule, FlowerRule) else CohortStrategy(rule, plan)


def _failed_row(client: int, what: str) -> ClientRow:
    return ClientRow(client=client, examples=0, steps=0, train_loss=math.nan, seconds=0.0, status=what.splitlines()[0])


def _client_row(client: int, metrics: Any) -> ClientRow:
    return ClientRow(
        client=client,
        examples=int(metrics["examples"]),
        steps=int(metrics["steps"]),
        train_loss=metrics["train-loss"],
        seconds=metrics["seconds"],
    )
