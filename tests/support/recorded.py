"""Recorded runs with made-up numbers, for tests of what is shown of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.analysis.leaderboard import LeaderboardEntry, seed_groups, summarize
from fedsam.config import parse
from fedsam.overrides import override
from fedsam.results.provenance import Provenance
from fedsam.results.rows import Row, Slice
from fedsam.results.store import Results

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
    measures: Mapping[str, float] | None = None,
    costs: Mapping[str, float] | None = None,
    **settings: Any,
) -> str:
    """A run with the given accuracy after each round (None: not evaluated); keys of `settings` have `__` for a dot.

    Args:
        measures: Taken after the last round besides.
        costs: Of each round, where they are not those of `row`.
    """
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    experiment = parse(override({"rounds": 8, "client": {"optimizer": SGD}, "data": {"clients": 4}}, changes))
    clients = experiment.data.clients
    counts = np.random.default_rng(0).integers(0, 9, size=(clients, 10))
    run = results.start_run(
        experiment, experiment.dump(), dataset=dataset, label_distribution=counts, provenance=PROVENANCE, class_names=tuple("abcdefghij")
    )
    for round, accuracy in enumerate(accuracies, start=1):
        taken = {} if accuracy is None else {"test_accuracy": accuracy, "test_loss": losses}
        taken |= (measures or {}) if round == len(accuracies) else {}
        results.append_round(replace(row(run, round, taken, evaluations), **(costs or {})))
    if status != "running":
        results.finish_run(run, status, error)
    return run


def row(run: str, round: int, measures: Mapping[str, float], evaluations: int) -> Row:
    """A round that costs the same as every other."""
    costs: dict[str, Any] = {"cohort": 2, "examples": 50, "steps": 5, "gradient_evaluations": evaluations, "forward_evaluations": 7}
    costs |= {"bytes_down": 1000, "bytes_up": 500, "peak_rss": 10**8, "client_seconds": 2.0, "wall_seconds": 1.0, "evaluate_seconds": 0.5}
    return Row(run=run, round=round, train_loss=1.0, measures=measures, **costs)


def everything(flat: float) -> dict[str, float]:
    """Every measure that can be taken after the last round, with a loss so sharp."""
    spectrum = {f"hessian_top_{place}": 10 * flat / place for place in range(1, 6)} | {
        "hessian_smallest": -flat,
        "hessian_trace": 90 * flat,
    }
    sharp = {f"sharpness_{case}{kind}": flat for case in ("worst", "average") for kind in ("", "_adaptive")}
    errors = {f"{name}_error": 0.01 * flat for name in spectrum | sharp}
    effort = {"flatness_gradient_evaluations": 1e6, "flatness_forward_evaluations": 2e5, "flatness_seconds": 90.0}
    fair = {"client_accuracy_mean": 0.5, "client_accuracy_std": 0.1, "client_accuracy_worst10": 0.3}
    return {**spectrum, **sharp, **errors, **effort, **fair, "union_accuracy": 0.8, "union_loss": 0.5, "calibration_error": 0.05}


def compare(results: Results, methods: Sequence[str], counts: Sequence[int], seeds: Sequence[int], rounds: int = 8) -> None:
    """A comparison with every measure and every cost: later methods are better, flatter and dearer; more clients make all worse."""
    for clients in counts:
        for place, method in enumerate(methods):
            for seed in seeds:
                draw = np.random.default_rng((clients, place, seed))
                final = 0.6 - 0.04 * np.log10(clients) + 0.01 * place + 0.005 * draw.normal()
                curve = [float(final * (1 - np.exp(-2.5 * (round + 1) / rounds)) + 0.005 * draw.normal()) for round in range(rounds)]
                flat, dear = float((1.5 - 0.1 * place) * np.exp(0.1 * draw.normal())), 1 + place / 4
                costs = {
                    "flops": int(1e12 * dear),
                    "client_seconds": 60 * dear,
                    "wall_seconds": 40.0,
                    "simulated_seconds": 9.0,
                    "energy": 1e3,
                }
                run = add(
                    results,
                    curve,
                    evaluations=int(50_000 * dear),
                    measures=everything(flat),
                    costs=costs | {"bytes_down": 10**6 * clients, "peak_device_memory": 10**9},
                    seed=seed,
                    rounds=rounds,
                    data__clients=clients,
                    client__optimizer={"name": method},
                )
                results.record_startup(run, 4.5)
                keep_slices(results, run, rounds, flat)


def keep_slices(results: Results, run: str, round: int, flat: float) -> None:
    """A line and a plane through a bowl."""
    alphas = np.linspace(-1, 1, 11)
    plane = 0.5 + flat * (alphas[:, None] ** 2 + 2 * alphas[None, :] ** 2)
    for name, losses in (("line", plane[:, 5:6]), ("plane", plane)):
        kept = tuple(tuple(float(loss) for loss in losses_row) for losses_row in losses)
        results.add_slice(Slice(run=run, round=round, name=name, alphas=tuple(float(alpha) for alpha in alphas), losses=kept))


def lines_of(results: Results) -> list[LeaderboardEntry]:
    """The leaderboard of all runs."""
    return summarize(seed_groups(results, results.runs()))
