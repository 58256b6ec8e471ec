"""Everything an experiment can name, by kind: the registries behind `fedsam list`, and the checks of an experiment behind `fedsam run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

from clients.corrections import CORRECTIONS
from clients.optimizers import OPTIMIZERS
from experiments.settings import compatibility
from experiments.settings.method import Method
from experiments.settings.presets import PRESETS, expand, unknown_names
from fedsam import overrides, plugins, registry
from fedsam.config import Component, ConfigError, Experiment
from fedsam.data import datasets, own_data
from fedsam.data.partition import PARTITIONS
from fedsam.models.architectures import MODELS
from fedsam.module_sources import Source
from fedsam.registry import FunctionContract, Registry
from fedsam.results.config_hash import config_hash
from fedsam.results.provenance import source_hashes
from fedsam.schedules import SCHEDULES
from fedsam.system.heterogeneity import DISTRIBUTIONS, Heterogeneity
from fedsam.wording import is_plain
from strategies import STRATEGIES, sampling
from strategies.robust import FlowerRule
from strategies.sampling import SAMPLERS, Sampler

TABLES: dict[str, Mapping[str, Any]] = {
    "optimizers": OPTIMIZERS,
    "corrections": CORRECTIONS,
    "strategies": STRATEGIES,
    "methods": PRESETS,
    "partitions": PARTITIONS,
    "models": MODELS,
    "datasets": Registry(
        "datasets",
        FunctionContract(()),
        datasets.DATASETS | {f"{form}:PATH": read for form, read in own_data.FORMATS.items()} | {"module:factory": own_data.factory},
    ),
    "schedules": SCHEDULES,
    "distributions": DISTRIBUTIONS,
    "samplers": SAMPLERS,
}


# Where an experiment names a component, and the registry that the name is looked up in.
REGISTRIES: dict[str, Registry[Any]] = {
    "client.optimizer": OPTIMIZERS,
    "client.correction": CORRECTIONS,
    "client.schedule": SCHEDULES,
    "client.rho_schedule": SCHEDULES,
    "server.strategy": STRATEGIES,
    "data.partition": PARTITIONS,
    "model": MODELS,
    "simulate.speed": DISTRIBUTIONS,
    "simulate.bandwidth": DISTRIBUTIONS,
    "server.sampling": SAMPLERS,
}


class CheckedExperiment(NamedTuple):
    """An experiment that was checked, with what checking it made; running it makes nothing of that again.

    Attributes:
        experiment: The experiment.
        settings: Every setting as plain values, the defaults of the named components included.
        method: Its method, built.
    """

    experiment: Experiment
    settings: dict[str, Any]
    method: Method


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Every setting as plain values, the defaults of the named components included. Raises as `check`."""
    return check(experiment).settings


@unknown_names()
def check(experiment: Experiment) -> CheckedExperiment:
    """Check all that can be checked without the data.

    Raises:
        ConfigError: A component's name or hyperparameter is wrong, or settings contradict each other.
    """
    plain = experiment.dump()
    if experiment.method is not None and expand(plain) != experiment:
        said = "`fedsam run-config` does that, and in Python settings that are a plain table"
        raise ConfigError(f"experiment: the settings of method {experiment.method!r} must be written out; {said}")
    for key, choices in REGISTRIES.items():
        component = _named(experiment, key)
        if component is not None:
            plain = overrides.override(plain, {key: _with_defaults(choices, component, key)})
    datasets.check(experiment.data.source, experiment.data.fallback)
    how = experiment.server.sampling
    with plugins.component_errors("server.sampling", how.name if isinstance(how, Component) else str(how)):
        sampler(experiment)(1)
    Heterogeneity.of(experiment)
    if experiment.measure.patience is not None and not experiment.data.validation:
        refused = f"measure.patience: {experiment.measure.patience} is not allowed without data.validation"
        raise ConfigError(f"{refused}: it waits for a better accuracy on examples that are held out; 0.1 holds out a tenth")
    method = Method.of(experiment)
    compatibility.check(experiment, method)
    rule, size, quorum = method.rule, cohort(experiment), experiment.server.quorum
    if isinstance(quorum, int) and not isinstance(experiment.server.sampling, tuple) and quorum > size:
        raise ConfigError(f"server.quorum: {quorum} is not allowed: a cohort has {size} clients (server.participation)")
    if isinstance(rule, FlowerRule) and size < rule.min_updates():
        needs = f"{experiment.server.strategy.name} needs {rule.min_updates()} clients"
        raise ConfigError(f"server.participation: {size} is not allowed: {needs} in a cohort")
    return CheckedExperiment(experiment, plain, method)


def sources(experiment: Experiment, *, to_send: bool = False) -> tuple[Source, ...]:
    """The modules that the experiment's components come from, those aside that are installed.

    Args:
        to_send: Another process makes the run, whatever its grid.

    Raises:
        ConfigError: As `resolved`, or a component of what another process does is defined in the script or notebook.
    """
    found = {name for key, choices in REGISTRIES.items() for name in _references(choices, _named(experiment, key), key)}
    if experiment.compute.grid == "inline" and not to_send:  # clients are in this process, and so see what its script or notebook defines
        found = {name for name in found if not name.startswith("__main__:")}
    if to_send:
        found |= {name for name in (*experiment.callbacks, experiment.data.source.name) if plugins.is_reference(name)}
    return plugins.sources(found | own_data.references(experiment.data.source))


def experiment_hash(checked: CheckedExperiment, data: str) -> str:
    """The hash by which runs of an experiment are found, whatever their seed.

    Args:
        data: Hash of a custom dataset; empty for others.
    """
    return config_hash(checked.settings, source_hashes(sources(checked.experiment), data))


def _references(choices: Registry[Any], component: Component | None, key: str) -> Iterator[str]:
    """Every `module:attribute` of a component and of those inside it."""
    if component is None:
        return
    if plugins.is_reference(component.name):
        yield component.name
    for name, value in registry.resolve(choices, component, key).items():
        if isinstance(value, Component):
            yield from _references(choices, value, f"{key}.{name}")


def _named(experiment: Experiment, key: str) -> Component | None:
    """The component at a dotted key; None where the key is unset or names none by a table."""
    value: Any = reduce(getattr, key.split("."), experiment)
    return value if isinstance(value, Component) else None


def _with_defaults(choices: Registry[Any], component: Component, key: str) -> dict[str, Any]:
    """A component as plain values with its defaults filled in, components inside it included; unset settings are left out."""
    given = registry.resolve(choices, component, key)
    nested = {name: _with_defaults(choices, value, f"{key}.{name}") for name, value in given.items() if isinstance(value, Component)}
    # A default of somebody else's function may be anything; what is no plain value cannot be set in a file either.
    plain = {name: value for name, value in given.items() if is_plain(value)}
    return {"name": component.name, **plain, **nested}


def sampler(experiment: Experiment) -> Sampler:
    """Who takes part in a round.

    Raises:
        ConfigError: There are fewer clients than that, or the listed cohorts do not fit the run.
    """
    size, clients, how = cohort(experiment), experiment.data.clients, experiment.server.sampling
    if not isinstance(how, tuple):
        component = how if isinstance(how, Component) else Component(name=how)
        share = experiment.server.participation
        if how == "independent":
            component = Component.model_validate({"name": how, "probability": share if isinstance(share, float) else share / clients})
        draw = registry.build(SAMPLERS, component, "server.sampling")
        return partial(sampling.drawn, draw=draw, clients=clients, cohort=size, seed=experiment.seed)
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
