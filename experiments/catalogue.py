"""Everything an experiment can name, by kind: the tables behind `fedsam list` and behind validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clients.corrections import CORRECTIONS
from clients.optimizers import OPTIMIZERS
from experiments.methods import METHODS
from fedsam import config
from fedsam.config import ConfigError, Experiment
from fedsam.datasets import DATASETS
from fedsam.models import MODELS
from fedsam.partition import PARTITIONS
from fedsam.schedules import SCHEDULES
from strategies import STRATEGIES

TABLES: dict[str, Mapping[str, Any]] = {
    "optimizers": OPTIMIZERS,
    "corrections": CORRECTIONS,
    "strategies": STRATEGIES,
    "methods": METHODS,
    "partitions": PARTITIONS,
    "models": MODELS,
    "datasets": DATASETS,
    "schedules": SCHEDULES,
}


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Every setting as plain values, the defaults of the named parts included.

    Raises:
        ConfigError: A part's name or hyperparameter is wrong, or settings contradict each other.
    """
    plain = experiment.dump()
    parts = (
        ("client.optimizer", experiment.client.optimizer, OPTIMIZERS),
        ("client.correction", experiment.client.correction, CORRECTIONS),
        ("client.schedule", experiment.client.schedule, SCHEDULES),
        ("server.strategy", experiment.server.strategy, STRATEGIES),
        ("data.partition", experiment.data.partition, PARTITIONS),
        ("model", experiment.model, MODELS),
    )
    for key, part, table in parts:
        if ":" in part.name:  # a model from anywhere: its factory checks its own settings
            continue
        settings = config.resolve(table, part, key)
        plain = config.override(plain, {key: {"name": part.name, **{k: v for k, v in settings.items() if v is not None}}})
    for key, name in (("data.dataset", experiment.data.dataset), ("data.fallback", experiment.data.fallback)):
        if name is not None and name not in DATASETS:
            raise ConfigError(f"{key}: {name!r} is not known; allowed: {', '.join(sorted(DATASETS))}")
    cohort(experiment)
    return plain


def cohort(experiment: Experiment) -> int:
    """Clients of a round.

    Raises:
        ConfigError: There are fewer clients than that.
    """
    share, clients = experiment.server.participation, experiment.data.clients
    if isinstance(share, float):
        return max(1, round(share * clients))
    if share > clients:
        raise ConfigError(f"server.participation: {share} is not allowed: the population has {clients} clients (data.clients)")
    return share
