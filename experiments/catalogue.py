"""Everything an experiment can name, by kind: the tables behind `fedsam list` and behind validation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce
from typing import Any

import strategies
from clients.corrections import CORRECTIONS
from clients.optimizers import OPTIMIZERS
from experiments import compatibility
from experiments.methods import METHODS
from fedsam import config, parts
from fedsam.config import ConfigError, Experiment, Part
from fedsam.datasets import DATASETS
from fedsam.heterogeneity import DISTRIBUTIONS, Heterogeneity
from fedsam.models import MODELS
from fedsam.partition import PARTITIONS
from fedsam.schedules import SCHEDULES
from strategies import STRATEGIES, sampling
from strategies.flower import FlowerRule
from strategies.sampling import Sampler

TABLES: dict[str, Mapping[str, Any]] = {
    "optimizers": OPTIMIZERS,
    "corrections": CORRECTIONS,
    "strategies": STRATEGIES,
    "methods": METHODS,
    "partitions": PARTITIONS,
    "models": MODELS,
    "datasets": DATASETS,
    "schedules": SCHEDULES,
    "distributions": DISTRIBUTIONS,
}


# Where an experiment names a part, and the table that the name is looked up in.
PARTS: dict[str, Mapping[str, Any]] = {
    "client.optimizer": OPTIMIZERS,
    "client.correction": CORRECTIONS,
    "client.schedule": SCHEDULES,
    "server.strategy": STRATEGIES,
    "data.partition": PARTITIONS,
    "model": MODELS,
    "simulate.speed": DISTRIBUTIONS,
    "simulate.bandwidth": DISTRIBUTIONS,
}


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Every setting as plain values, the defaults of the named parts included.

    Raises:
        ConfigError: A part's name or hyperparameter is wrong, or settings contradict each other.
    """
    plain = experiment.dump()
    for key, table in PARTS.items():
        part = _named(experiment, key)
        if part is not None and ":" not in part.name:  # a model from anywhere: its factory checks its own settings
            plain = config.override(plain, {key: _filled(table, part, key)})
    for key, name in (("data.dataset", experiment.data.dataset), ("data.fallback", experiment.data.fallback)):
        if name is not None and name not in DATASETS:
            raise ConfigError(f"{key}: {name!r} is not known; allowed: {', '.join(sorted(DATASETS))}")
    sampler(experiment)
    Heterogeneity.of(experiment)
    compatibility.check(experiment)
    rule, size, quorum = strategies.build(experiment.server.strategy), cohort(experiment), experiment.server.quorum
    if isinstance(quorum, int) and isinstance(experiment.server.sampling, str) and quorum > size:
        raise ConfigError(f"server.quorum: {quorum} is not allowed: a cohort has {size} clients (server.participation)")
    if isinstance(rule, FlowerRule) and size < rule.least():
        needs = f"{experiment.server.strategy.name} needs {rule.least()} clients"
        raise ConfigError(f"server.participation: {size} is not allowed: {needs} in a cohort")
    return plain


def _named(experiment: Experiment, key: str) -> Part | None:
    value: Any = reduce(getattr, key.split("."), experiment)
    assert value is None or isinstance(value, Part)
    return value


def _filled(table: Mapping[str, Any], part: Part, key: str) -> dict[str, Any]:
    """A part as plain values with its defaults filled in, parts inside it included; unset settings are left out."""
    given = parts.resolve(table, part, key).items()
    nested = {name: _filled(table, value, f"{key}.{name}") for name, value in given if isinstance(value, Part)}
    return {"name": part.name, **{name: value for name, value in given if value is not None}, **nested}


def sampler(experiment: Experiment) -> Sampler:
    """Who takes part in a round.

    Raises:
        ConfigError: There are fewer clients than that, or the listed cohorts do not fit the run.
    """
    size, clients, how = cohort(experiment), experiment.data.clients, experiment.server.sampling
    if how == "fixed":
        return partial(sampling.fixed, clients=clients, cohort=size, seed=experiment.seed)
    if how == "independent":
        share = experiment.server.participation
        return partial(
            sampling.independent, clients=clients, probability=share if isinstance(share, float) else share / clients, seed=experiment.seed
        )
    if len(how) < experiment.rounds:
        raise ConfigError(f"server.sampling: {len(how)} cohorts are not allowed: there are {experiment.rounds} rounds")
    for number, members in enumerate(how, start=1):
        if not members or len(set(members)) < len(members) or max(members) >= clients:
            raise ConfigError(f"server.sampling: cohort {number} is not allowed: must be different clients from 0 to {clients - 1}")
    return partial(sampling.listed, cohorts=how)


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
