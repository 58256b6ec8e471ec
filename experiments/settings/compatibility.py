"""Whether the components of a method fit together, found out before anything starts by asking the components themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from clients.corrections import CORRECTIONS, Correction
from clients.objective import Batch
from clients.optimizers.base import Task
from experiments.settings.method import Method
from fedsam import registry, schedules
from fedsam.config import Component, ConfigError, Experiment
from fedsam.plugins import component_errors
from fedsam.registry import Registry
from fedsam.schedules import known_rounds
from strategies import STRATEGIES, ServerRule
from strategies.base import Aggregate
from strategies.robust import FlowerRule

FREE = "population.delta"  # needs nothing more than the deltas that every client sends
GIVERS: dict[str, Registry[Any]] = {"client.correction": CORRECTIONS, "server.strategy": STRATEGIES}


def check(experiment: Experiment, method: Method) -> None:
    """Refuse a method whose components do not fit together, or that the experiment cannot run.

    Raises:
        ConfigError: A component needs what no other gives, or raises an error when it is tried.
    """
    _try(experiment, method)
    for key, problem in _problems(experiment, method):
        raise ConfigError(f"{key}: {_names(experiment)[key]!r} is not allowed here: {problem}")
    if experiment.budget is not None:
        _check_rounds(experiment, method)


def broadcast(rule: ServerRule) -> Mapping[str, torch.Tensor]:
    """What a rule sends to clients, for a global vector of one parameter."""
    w = torch.zeros(1)
    return rule.broadcast(w, rule.init_state(w))


def terms(correction: Correction) -> Mapping[str, torch.Tensor]:
    """What a correction gives to the local optimizer, for a global vector of one parameter."""
    w = torch.zeros(1)
    return correction.start(w, {name: w for name in ("w", *correction.needs)}, correction.initial(w))


def _names(experiment: Experiment) -> dict[str, str]:
    """The names of the method's components, by key."""
    client = experiment.client
    components = {"optimizer": client.optimizer, "correction": client.correction, "schedule": client.schedule}
    components |= {"rho_schedule": client.rho_schedule}
    return {f"client.{key}": component.name for key, component in components.items()} | {"server.strategy": experiment.server.strategy.name}


def _try(experiment: Experiment, method: Method) -> None:
    """Use each component once, so that what somebody else's raises is an error of the settings."""
    names = _names(experiment)
    with component_errors("server.strategy", names["server.strategy"]):
        broadcast(method.rule)
    with component_errors("client.correction", names["client.correction"]):
        given = terms(method.correction)
    with component_errors("client.optimizer", names["client.optimizer"]):
        if not method.optimizer.needs:
            method.optimizer.init(torch.zeros(1), _task(experiment.rounds, given))
    with component_errors("client.schedule", names["client.schedule"]):
        float(method.schedule(1, experiment.rounds))
    with component_errors("client.rho_schedule", names["client.rho_schedule"]):
        float(method.rho_schedule(1, experiment.rounds))


def _task(rounds: int, given: Mapping[str, torch.Tensor]) -> Task:
    """A round of which everything is known, as clients have it: some optimizers cannot begin without their examples."""
    x, y = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long)
    return Task(rounds=rounds, steps=1, class_counts=(1, 1), peek=lambda count: Batch(x, y), terms=given)


@dataclass(frozen=True)
class Requirement:
    """What a component needs of another.

    Attributes:
        key: Of the component that needs it.
        needed: The names of what it needs.
        giver: Key of the component that must give it.
        lacks: What the message says of a giver that does not.
        given: The names of what a giver gives.
    """

    key: str
    needed: Callable[[Any], Collection[str]]
    giver: str
    lacks: str
    given: Callable[[Any], Collection[str]]


REQUIREMENTS = (
    Requirement("client.correction", lambda correction: correction.needs, "server.strategy", "does not send", broadcast),
    Requirement("server.strategy", lambda rule: rule.expects, "client.correction", "does not send", lambda c: (*c.sends, FREE)),
    Requirement("server.strategy", lambda rule: rule.mirrors, "client.correction", "keeps no", lambda correction: correction.keeps),
    Requirement("client.optimizer", lambda optimizer: optimizer.needs, "client.correction", "gives no", terms),
)


def _problems(experiment: Experiment, method: Method) -> Iterator[tuple[str, str]]:
    """The key of each component that cannot be used, and why."""
    names = _names(experiment)
    built = {"client.optimizer": method.optimizer, "client.correction": method.correction, "server.strategy": method.rule}
    for need in REQUIREMENTS:
        if missing := _missing(need.needed(built[need.key]), need.given(built[need.giver])):
            givers = [name for name in GIVERS[need.giver] if missing in need.given(_default(need.giver, name))]
            others = f"; one of {', '.join(sorted(givers))} does" if givers else ""
            yield need.key, f"{need.giver} {names[need.giver]!r} {need.lacks} {missing}{others}"
    if experiment.client.rho_schedule.name != "constant" and not method.optimizer.radii():
        yield "client.rho_schedule", f"client.optimizer {names['client.optimizer']!r} has no perturbation radius"
    if method.correction.reads:
        state = method.optimizer.init(torch.zeros(1), Task(terms=terms(method.correction)))
        if missing := _missing(method.correction.reads, state):
            yield "client.correction", f"client.optimizer {names['client.optimizer']!r} has no {missing}"
    if isinstance(method.rule, FlowerRule):
        if method.correction.keeps or method.correction.sends:
            yield "client.correction", "Flower's strategies combine the clients' models and nothing else"
        if experiment.server.weights == "uniform":
            yield "server.strategy", "it does not know server.weights = 'uniform'"


def _missing(needed: Collection[str], given: Collection[str]) -> str | None:
    """The first name that is needed and not given."""
    return next((name for name in needed if name not in given), None)


def _default(key: str, name: str) -> Any:
    """The component of a name with its default hyperparameters."""
    return registry.build(GIVERS[key], Component(name=name), key)


def rounds_user(experiment: Experiment, method: Method) -> str | None:
    """The key of a component that depends on the number of rounds, so that a longer run is not one that goes on; None: there is none."""
    try:
        _check_rounds(experiment.model_copy(update={"budget": 1}), method)
    except ConfigError as error:
        return str(error).partition(":")[0]
    return None


def _check_rounds(experiment: Experiment, method: Method) -> None:
    """Refuse components that use the number of rounds, which a run with a budget does not know."""
    uses_rounds = {
        "client.schedule": schedules.uses_rounds(method.schedule),
        "client.rho_schedule": schedules.uses_rounds(method.rho_schedule),
        "client.optimizer": method.optimizer.uses_rounds,
        "server.strategy": method.rule.uses_rounds,
    }
    for key in [key for key, uses in uses_rounds.items() if uses]:
        why = "as set it depends on the number of rounds, which is not known then"
        raise ConfigError(f"{key}: {_names(experiment)[key]!r} is not allowed with a budget: {why}")
    _try_without_rounds(experiment, method)


def _try_without_rounds(experiment: Experiment, method: Method) -> None:
    """Use each component once without the number of rounds: one that computes with it and does not say so raises `ConfigError`."""
    client, w = experiment.client, torch.zeros(1)
    method.schedule(1, known_rounds(experiment, "client.schedule", client.schedule))
    method.rho_schedule(1, known_rounds(experiment, "client.rho_schedule", client.rho_schedule))
    method.optimizer.init(w, _task(known_rounds(experiment, "client.optimizer", client.optimizer), terms(method.correction)))
    rule = method.rule
    if not isinstance(rule, FlowerRule):
        names = [name.partition(".")[::2] for name in rule.expects]
        aggregate = Aggregate(
            delta=w,
            mean={name: w for kind, name in names if kind == "mean"},
            population={name: w for kind, name in names if kind == "population"},
            metrics={"steps": 1.0} | {name: 1.0 for kind, name in names if kind == "metrics"},
            rounds=known_rounds(experiment, "server.strategy", experiment.server.strategy),
        )
        rule.server_step(w, rule.init_state(w), aggregate)
