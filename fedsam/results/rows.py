"""What one run, round and client leave in the results: the rows of their tables as frozen values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from fedsam.results.provenance import Provenance

Status = Literal["running", "finished", "failed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class ClientRow:
    """What one client did in one round.

    Attributes:
        examples: It trained on, each local epoch counted.
        train_loss: Mean over its local steps; NaN when it diverged or failed.
        seconds: Of local training.
        status: `ok`, or what went wrong.
    """

    client: int
    examples: int
    steps: int
    train_loss: float
    seconds: float
    status: str = "ok"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one round gave and cost; `cumulative` adds costs up.

    Attributes:
        cohort: Clients that trained.
        failures: Clients that did not, or did not evaluate though asked to.
        gradient_evaluations: Examples passed forward and backward.
        forward_evaluations: Examples passed forward only, evaluation left out.
        bytes_down: From the server to the cohort.
        bytes_up: From the cohort to the server.
        client_seconds: Sum over clients of local training.
        flops: Floating-point operations of training: evaluations times those of the model's passes.
        wall_seconds: Of the training part of the round.
        evaluate_seconds: Of the evaluation after it; 0 when there was none.
        simulated_seconds: Of the round on the simulated clock; None when nothing is simulated.
        energy: Joules that this machine's GPUs took during training; None where they do not say.
        peak_rss: Bytes, the largest process.
        peak_device_memory: Bytes, the largest actor; None without a GPU.
        train_loss: Mean over the cohort, weighted by examples; may be NaN.
        measures: What was evaluated: `test_accuracy` (a fraction), `test_loss`, ...; empty when nothing was.
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
    clients: Sequence[ClientRow] = ()


ROUND_COLUMNS = tuple(f.name for f in fields(Row) if f.name not in ("measures", "clients"))
CLIENT_COLUMNS = tuple(f.name for f in fields(ClientRow))
PEAK_COLUMNS = ("peak_rss", "peak_device_memory")
OPTIONAL_COLUMNS = ("simulated_seconds", "energy")
TOTAL_COLUMNS = tuple(name for name in ROUND_COLUMNS if name not in ("run", "round", "train_loss", *PEAK_COLUMNS, *OPTIONAL_COLUMNS))


@dataclass(frozen=True, kw_only=True)
class Run(Provenance):
    """One line of the table of runs.

    Attributes:
        status: `interrupted` also when the process that wrote it is gone without a word.
        started: UTC, ISO 8601; so is `finished`.
        config: Every setting, defaults filled in.
        config_hash: Equal for runs that differ only in seed and in where files lie.
        dataset: The one really used.
        dataset_wanted: The one that the experiment asked for.
        startup: Seconds from the start of the run to its first round: dealing, moving and loading what it needs; None before.
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


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Losses of a run's model along a line (A, 1) or over a plane (A, A) after a round.

    Attributes:
        name: `line` or `plane`.
        alphas: Multiples (A,) of the directions, which have the scale of the weights.
        losses: By row: multiple of the first direction; by column: of the second.
    """

    run: str
    round: int
    name: str
    alphas: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]


def cumulative(rows: Sequence[Row]) -> list[Row]:
    """The rows with each cost replaced by its total so far, and each peak by the highest so far."""
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
