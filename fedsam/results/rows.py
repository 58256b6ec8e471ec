"""Rows of the results as frozen values: runs, rounds, clients, slices."""

from __future__ import annotations

import itertools
import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from fedsam.renamed import with_added, with_current_names
from fedsam.results.processes import process_ended
from fedsam.results.provenance import Provenance

Status = Literal["running", "finished", "failed", "interrupted", "diverged", "pruned"]
CONCLUDED: tuple[Status, ...] = ("finished", "diverged")  # of runs that would come to the same if they were made again


@dataclass(frozen=True, kw_only=True)
class ClientRow:
    """Local training of one client in one round.

    Attributes:
        client: From 0.
        examples: Number of examples it trained on, counted in each local epoch.
        steps: Local steps.
        train_loss: Mean over its local steps; NaN when it diverged or failed.
        seconds: Of local training.
        status: `ok`, or the error.
    """

    client: int
    examples: int
    steps: int
    train_loss: float
    seconds: float
    status: str = "ok"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Results and costs of one round; `cumulative` adds up the costs.

    Attributes:
        run: Id of the run.
        round: From 1.
        cohort: Number of clients that trained.
        failures: Number of clients that failed to train or evaluate.
        examples: Of all clients, counted in each local epoch.
        steps: Local steps of all clients.
        gradient_evaluations: Examples passed forward and backward.
        forward_evaluations: Examples passed forward only, evaluation left out.
        bytes_down: From the server to the cohort.
        bytes_up: From the cohort to the server.
        flops: Floating-point operations of training: evaluations times those of a pass of the model.
        client_seconds: Seconds of local training, sum over clients.
        wall_seconds: Seconds from the first broadcast to the new global vector. Actors without a client evaluate the round before
            meanwhile; one that is at a query of that when the round begins, mostly a batch of test images, ends it first.
        evaluate_seconds: Seconds that its evaluation computed, sum over queries, which may be answered at once and while the next round
            trains; 0 when there was none.
        simulated_seconds: Seconds of the round on the simulated clock; None when no time is simulated.
        energy: Joules of this machine's GPUs during training, evaluation left out; None where they have no counter.
        peak_rss: Peak resident memory in bytes of the largest process.
        peak_device_memory: Peak GPU memory in bytes of the largest actor; None without a GPU.
        train_loss: Mean over the cohort, weighted by examples; may be NaN.
        measures: Evaluated values by name: `test_accuracy` (a fraction), `test_loss`, ...; empty without evaluation.
        clients: One row for each client.
    """

    run: str
    round: int
    cohort: int
    failures: int = 0
    examples: int
    steps: int
    gradient_evaluations: int
    forward_evaluations: int
    bytes_down: int
    bytes_up: int
    flops: int = 0
    client_seconds: float
    wall_seconds: float
    evaluate_seconds: float
    simulated_seconds: float | None = None
    energy: float | None = None
    peak_rss: int
    peak_device_memory: int | None = None
    train_loss: float
    measures: Mapping[str, float] = field(default_factory=dict)
    clients: Sequence[ClientRow] = field(default=(), repr=False)


ROUND_COLUMNS = tuple(f.name for f in fields(Row) if f.name not in ("measures", "clients"))
CLIENT_COLUMNS = tuple(f.name for f in fields(ClientRow))
PEAK_COLUMNS = ("peak_rss", "peak_device_memory")
OPTIONAL_COLUMNS = ("simulated_seconds", "energy")
TOTAL_COLUMNS = tuple(name for name in ROUND_COLUMNS if name not in ("run", "round", "train_loss", *PEAK_COLUMNS, *OPTIONAL_COLUMNS))


@dataclass(frozen=True, kw_only=True, repr=False)
class Run(Provenance):
    """A row of the table of runs.

    Attributes:
        id: Begins with its start time.
        name: From the config; may be empty.
        status: `interrupted` also when its process has ended without a final status; `diverged` where a loss or vector was not finite;
            `pruned` where a judge of its rounds ended it.
        error: Why it failed, diverged or was pruned; None otherwise.
        started: UTC, ISO 8601.
        finished: UTC, ISO 8601; None until it has ended.
        config: Every setting, defaults filled in.
        config_hash: Equal for runs that differ only in seed and in paths of files.
        seed: Of all random streams.
        dataset: The one that was used.
        dataset_wanted: The one that the experiment asked for.
        clients: Number of clients.
        classes: Number of classes.
        startup: Seconds from the start of the run to its first round; None before.
        host: Name of the machine that the run was started on.
        other_cpu: Share of the machine's CPU time that processes took that are not the run's; None where it was not measured.
    """

    id: str
    name: str
    status: Status
    error: str | None
    started: str
    finished: str | None
    config: Mapping[str, Any]
    config_hash: str
    seed: int
    dataset: str
    dataset_wanted: str
    clients: int
    classes: int
    startup: float | None
    host: str
    other_cpu: float | None

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.method!r}, {self.dataset!r}, clients={self.clients}, seed={self.seed}, {self.status!r})"

    @property
    def method(self) -> str:
        """Its name, else the preset, else the components."""
        components = (self.config["client"]["optimizer"], self.config["client"]["correction"], self.config["server"]["strategy"])
        return self.name or self.config.get("method") or " x ".join(each["name"] for each in components if each["name"] != "none")

    def overlaps(self, other: Run) -> bool:
        """Whether another run that has ended went on at the same time on the same machine, for a second at least."""
        if self.finished is None or other.finished is None or self.id == other.id or self.host != other.host:
            return False
        return self.started < other.finished and other.started < self.finished

    @classmethod
    def from_entry(cls, entry: sqlite3.Row) -> Self:
        """The run of an entry in the database. Raises `ValueError`, `TypeError` or `LookupError` where it is damaged."""
        stored = dict(entry)
        values = {f.name: stored[f.name] for f in fields(cls)}
        values |= {"config": _config(stored["config"]), "versions": json.loads(stored["versions"])}
        if values["status"] not in get_args(Status) or not all(isinstance(values[name], int) for name in ("seed", "clients", "classes")):
            raise ValueError("a value is of no kind that fedsam writes")
        if values["status"] == "running" and process_ended(stored["host"], stored["pid"], stored["born"], stored["heartbeat"]):
            values["status"] = "interrupted"
        run = cls(**values)
        if not isinstance(run.method, str) or not isinstance(run.config["rounds"] * run.config["measure"]["last"], int):
            raise ValueError("its settings are not those of a run")
        return run


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Losses of the model of a run along a line (A, 1) or over a plane (A, A) after a round.

    Attributes:
        run: Id of the run.
        round: From 1.
        name: `line` or `plane`.
        alphas: Multiples (A,) of the directions, which have the scale of the weights.
        losses: By row: multiple of the first direction; by column: of the second.
    """

    run: str
    round: int
    name: str
    alphas: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]

    def cells(self) -> list[tuple[int, int, float, float, float]]:
        """Row, column, their multiples of the directions, and the loss of each point; a line has one column, at 0."""
        betas = self.alphas if len(self.losses[0]) > 1 else (0.0,)
        return [(i, j, self.alphas[i], betas[j], loss) for i, row in enumerate(self.losses) for j, loss in enumerate(row)]


def as_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A dict for each row, all with the same keys: its columns and measures, single classes apart; NaN where a measure was not taken."""
    names = list(dict.fromkeys(name for row in rows for name in row.measures if not name.startswith("class_accuracy_")))
    columns = [name for name in ROUND_COLUMNS if name != "run"]
    return [{name: getattr(row, name) for name in columns} | {name: row.measures.get(name, math.nan) for name in names} for row in rows]


def cumulative(rows: Sequence[Row]) -> list[Row]:
    """The rows with each cost replaced by its running total, and each peak by its running maximum."""
    return list(itertools.accumulate(rows, _add))


def _add(before: Row, row: Row) -> Row:
    totals: dict[str, Any] = {name: getattr(before, name) + getattr(row, name) for name in TOTAL_COLUMNS}
    for name in OPTIONAL_COLUMNS:
        parts = (getattr(before, name), getattr(row, name))
        totals[name] = None if None in parts else sum(parts)
    peaks: dict[str, Any] = {
        name: max((p for p in (getattr(before, name), getattr(row, name)) if p is not None), default=None) for name in PEAK_COLUMNS
    }
    return replace(row, **totals, **peaks)


def _config(text: str) -> dict[str, Any]:
    """The settings of a run, whenever it was stored: with the present names of components and all present settings."""
    config: dict[str, Any] = with_added(with_current_names(json.loads(text)))
    config.get("compute", {}).pop("engine", None)
    return config
