"""Recorded runs with made-up numbers, for tests of what is shown of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.summary import Line, groups, summarize
from fedsam.config import override, parse
from fedsam.provenance import Provenance
from fedsam.results import Results
from fedsam.rows import Row

PROVENANCE = Provenance(versions={"python": "3.11", "torch": "2.9"}, git_commit="abc123", device="a CPU", command="fedsam run <a>.toml")
SGD, SAM = {"name": "sgd", "lr": 0.1}, {"name": "sam", "lr": 0.1, "rho": 0.05}


def add(
    results: Results,
    accuracies: Sequence[float | None],
    *,
    status: Any = "finished",
    dataset: str = "cifar10",
    losses: float = 1.0,
    evaluations: int = 100,
    error: str | None = None,
    **settings: Any,
) -> str:
    """A run with the given accuracy after each round (None: not evaluated); keys of `settings` have `__` for a dot."""
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    experiment = parse(override({"rounds": 8, "client": {"optimizer": SGD}, "data": {"clients": 4}}, changes))
    clients = experiment.data.clients
    counts = np.random.default_rng(0).integers(0, 9, size=(clients, 10))
    run = results.start(experiment, experiment.dump(), dataset=dataset, holdings=counts, provenance=PROVENANCE)
    for round, accuracy in enumerate(accuracies, start=1):
        measures = {} if accuracy is None else {"test_accuracy": accuracy, "test_loss": losses}
        results.append(row(run, round, measures, evaluations))
    if status != "running":
        results.finish(run, status, error)
    return run


def row(run: str, round: int, measures: dict[str, float], evaluations: int) -> Row:
    """A round that costs the same as every other."""
    costs: dict[str, Any] = {"cohort": 2, "examples": 50, "steps": 5, "gradient_evaluations": evaluations, "forward_evaluations": 7}
    costs |= {"bytes_down": 1000, "bytes_up": 500, "peak_rss": 10**8, "client_seconds": 2.0, "wall_seconds": 1.0, "evaluate_seconds": 0.5}
    return Row(run=run, round=round, train_loss=1.0, measures=measures, **costs)


def lines_of(results: Results) -> list[Line]:
    """The leaderboard of all runs."""
    return summarize(groups(results, results.runs()))
