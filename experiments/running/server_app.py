"""Running experiments: the Flower ServerApp, and `run`, which brings its own grid."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from clients.optimizers import LocalOptimizer
from experiments.callbacks.callback import Callback, CallbackList
from experiments.callbacks.named import named_callbacks
from experiments.callbacks.progress import shown
from experiments.running.evaluation import TEST_CHUNKS
from experiments.running.grids import DatasetCache, grids
from experiments.running.judging import Judge, PrunedError
from experiments.running.result import Result
from experiments.running.run import Session
from experiments.running.space import check_space
from experiments.running.trial import try_out
from experiments.settings.catalogue import CheckedExperiment, check, sources
from experiments.settings.presets import expand
from fedsam import plugins
from fedsam.config import ConfigError, Experiment, parse
from fedsam.data import datasets, partition
from fedsam.data.datasets import Dataset
from fedsam.data.federated import batch_sizes, fallback_note, partition_examples
from fedsam.grid.base import LocalGrid
from fedsam.grid.ray_grid import RayGrid
from fedsam.results.ownership import RunTakenError
from fedsam.results.processes import heartbeat
from fedsam.results.provenance import Provenance, provenance
from fedsam.results.resuming import resuming_notes
from fedsam.results.rows import Run, Status
from fedsam.results.store import Results
from fedsam.results.write_queue import StorageError
from strategies.round import DivergedError

# The most that a client may cost for this process to train clients: seconds, in which an actor may wait.
QUICK_FLOPS, QUICK_STEPS = 10**10, 1000

app = ServerApp()


class RunFailed(Exception):
    """A run stopped after it had its place in the results.

    Attributes:
        run_id: Its id in the results.
        error: The error that stopped it, which is also the cause of this one.
        status: That of the run: `failed`, `diverged` or `pruned`.
    """

    def __init__(self, run_id: str, error: Exception, status: Status) -> None:
        super().__init__(f"run {run_id}: {error}")
        self.run_id, self.error, self.status = run_id, error, status


def run(experiment: Experiment | Mapping[str, Any], callback: Callback | None = None) -> Result:
    """Run one experiment on the grid that it names, and keep its results.

    Args:
        experiment: An `Experiment`, or plain settings such as a TOML file has.
        callback: Is told of rounds; default: shows progress in a terminal or notebook. A plain `Callback` does nothing.

    Raises:
        ConfigError: A setting is wrong; nothing has started.
        DataError: The dataset cannot be had.
        DivergedError: A loss or a vector is not finite; the rounds so far are kept.
        StorageError: The results or the model could not be written.
        RunError: A client failed; the rounds before it are kept.
    """
    plugins.refresh()
    if not isinstance(experiment, Experiment):
        if isinstance(experiment, Mapping) and "sweep" in experiment:
            raise ConfigError("sweep: is not allowed here: `run` makes one run; `compare` makes those of a sweep")
        experiment = expand(experiment)
    checked = check(experiment)
    with shown(callback) as progress:
        progress.plan([experiment])
        progress.phase(f"loading {experiment.data.source.name}")
        cache = DatasetCache()
        cache.get(experiment)  # before Ray starts, which takes long, as it may not be there
        with grids([experiment], cache, progress.phase) as grid_of:
            return run_on(checked, *grid_of(experiment), progress)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The ServerApp: runs the experiment in the run config on whatever grid it is given.

    Raises:
        ConfigError: The experiment is not valid, or leaves settings to its preset, which clients do not know.
    """
    experiment = parse(json.loads(str(context.run_config["experiment"])))
    checked = check(experiment)
    dataset = datasets.load(experiment.data.dataset, experiment.data.root, experiment.data.fallback)
    try_out([experiment], lambda _: dataset)
    _await_nodes(grid, experiment.data.clients)
    run_on(checked, grid, dataset, Callback())


def _await_nodes(grid: Grid, clients: int) -> None:
    """Give the nodes a minute to register: Flower's runtime starts the ServerApp before them, and tells nobody when they are there."""
    for _ in range(600):
        if len(list(grid.get_node_ids())) >= clients:
            return
        threading.Event().wait(0.1)


def run_on(checked: CheckedExperiment, grid: Grid, dataset: Dataset, callback: Callback) -> Result:
    """Run one experiment on a grid. Raises as `run`."""
    try:
        return serve(checked, grid, dataset, callback)
    except RunFailed as failed:
        raise failed.error from failed.error.__cause__


@dataclass(frozen=True)
class Continued:
    """A run that is to go on.

    Attributes:
        run: The run.
        changed: What of its settings and versions is other than before, and may be.
        restart: As of `Results.continue_run`.
    """

    run: Run
    changed: tuple[str, ...] = ()
    restart: bool = False


def provenance_of(experiment: Experiment, dataset: Dataset) -> Provenance:
    """The provenance of the experiment's run in this process."""
    gpu, modules = experiment.compute.gpus_per_actor > 0, sources(experiment)
    return provenance(gpu=gpu, sources=modules, data=dataset.digest, files=dataset.files)


def serve(
    checked: CheckedExperiment,
    grid: Grid,
    dataset: Dataset,
    callback: Callback,
    *,
    once: bool = False,
    restart: bool = False,
    continued: Continued | None = None,
    judge: Judge | None = None,
) -> Result:
    """Run one experiment on a grid: rounds, evaluation, results.

    Args:
        continued: The run of this experiment to go on with, instead of what `Results.start_run` does.
        judge: Is told of each evaluated round before the next one, of a run that goes on of its earlier ones first. Where it says that the
            run may end before its last round, that is `pruned`: its rounds are kept and its latest checkpoint, but no model.

    Raises:
        RunFailed: An error, or its judge, stopped the run after it had begun; before that errors are raised as in `run`, and as in
            `Results.start_run` for `once` and `restart`.
        KeyboardInterrupt: The user stopped it.
    """
    started = time.perf_counter()
    experiment, plain, method = checked
    label_distribution = partition.class_counts(dataset.train.y.numpy(), partition_examples(experiment, dataset), dataset.classes)
    if isinstance(grid, LocalGrid):
        grid.set_client_sizes(label_distribution.sum(axis=1).tolist())
    with Results.open(experiment.runs_dir) as results, named_callbacks(experiment) as named:
        callback = CallbackList(callback, *named)
        where = provenance_of(experiment, dataset)
        if continued is None:
            run_id = results.start_run(
                experiment,
                plain,
                dataset=dataset.name,
                label_distribution=label_distribution,
                provenance=where,
                class_names=dataset.class_names,
                once=once,
                restart=restart,
            )
        else:
            run_id = continued.run.id
            results.continue_run(continued.run, plain, where.versions, continued.changed, restart=continued.restart)
        try:
            callback.started(run_id, experiment)
            results.queue_writes(partial(callback.warn, run_id))
            if isinstance(grid, LocalGrid):
                grid.warn = partial(callback.warn, run_id)
            if note := fallback_note(dataset, experiment):
                callback.warn(run_id, note)
            for text in resuming_notes(results, run_id, where):
                callback.warn(run_id, text)
            _warn(experiment, method.optimizer, label_distribution.sum(axis=1), run_id, callback)
            with heartbeat(results.path, run_id):
                session = Session(experiment, method, dataset, label_distribution, grid, results, run_id, callback, started, judge)
                if isinstance(grid, RayGrid):
                    vanished = continued is not None and continued.run.status == "interrupted" and continued.run.error is None
                    if vanished or not _is_quick(session, int(label_distribution.sum(axis=1).max())):
                        grid.local_server = None  # the process may have vanished over a client
                waits = isinstance(grid, RayGrid) and not grid.pool.busy and (grid.local_server is None or grid.pool.lost)
                check_space(experiment, session.network.module, partial(callback.warn, run_id))
                callback.phase("round 1 begins once an actor has started" if waits else "round 1", run_id)
                result = session.run()
            results.finish_run(run_id, "finished")
        except BaseException as error:
            status, what = _ended_by(error)
            with suppress(RunTakenError, StorageError):  # the error that ended the run tells more
                results.finish_run(run_id, status, what)
            callback.finished(run_id, status, what)
            if isinstance(error, Exception):
                raise RunFailed(run_id, error, status) from error
            raise
        callback.finished(run_id, "finished", None)
    return result


def _is_quick(session: Session, examples: int) -> bool:
    """Whether a client with so many examples trains for seconds at most, a test query takes no longer, and a client may fail the run."""
    client, measure, server = session.experiment.client, session.experiment.measure, session.experiment.server
    tested = len(session.dataset.test.y)
    chunk = min(tested, measure.batch_size * -(-tested // (measure.batch_size * TEST_CHUNKS)))
    steps = client.steps or client.epochs * len(batch_sizes(examples, client.batch_size, client.last_batch))
    flops = session.flops.total(gradient_evaluations=steps * min(client.batch_size, examples), forward_evaluations=0)
    flops = max(flops, session.flops.total(gradient_evaluations=0, forward_evaluations=chunk))
    return flops <= QUICK_FLOPS and steps <= QUICK_STEPS and server.deadline is None and server.on_client_error == "fail"


def _ended_by(error: BaseException) -> tuple[Status, str]:
    """The status of a run that an error or its judge stopped, and what is recorded with it."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted", "stopped by the user"
    if isinstance(error, PrunedError):
        return "pruned", str(error)
    return ("diverged", str(error)) if isinstance(error, DivergedError) else ("failed", f"{type(error).__name__}: {error}")


def _warn(experiment: Experiment, optimizer: LocalOptimizer, examples: Any, run_id: str, callback: Callback) -> None:
    """Say what can hardly be meant, and where the optimizer, afresh in every round, has too few local steps to be what it is."""
    client = experiment.client
    steps = client.steps or client.epochs * len(batch_sizes(int(np.median(examples)), client.batch_size, client.last_batch))
    share, clients = experiment.server.participation, experiment.data.clients
    if share == 1 and isinstance(share, int) and clients > 1 and not isinstance(experiment.server.sampling, tuple):
        callback.warn(run_id, f"server.participation: 1 is one of {clients} clients in each round; 1.0 is all of them")
    if client.batch_size > max(examples):
        text = f"client.batch_size: {client.batch_size} is more than any client has: every local step takes all of its examples"
        callback.warn(run_id, text)
    reason = optimizer.reduction_reason(steps)
    if reason and client.optimizer_state == "fresh":
        callback.warn(
            run_id, f"client.optimizer: {reason} (a median client has {steps} local steps a round; client.optimizer_state is fresh)"
        )
