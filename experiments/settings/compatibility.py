"""Whether the three parts of a method fit together, found out before anything starts by asking the parts themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch

import strategies
from clients import corrections, optimizers
from clients.corrections import CORRECTIONS
from clients.corrections.base import Correction
from clients.objective import Batch
from clients.optimizers.base import LocalOptimizer, Task
from fedsam import registry
from fedsam.config import Component, ConfigError, Experiment
from fedsam.plugins import blamed
from fedsam.schedules import SCHEDULES
from strategies import STRATEGIES
from strategies.base import Aggregate, ServerRule
from strategies.robust import FlowerRule

FREE = "population.delta"  # needs nothing more than the deltas that every client sends


def check(experiment: Experiment) -> None:
    """Refuse a method whose parts do not fit.

    Raises:
        ConfigError: A part cannot be built, or needs what no other part gives.
    """
    optimizer = optimizers.build(experiment.client.optimizer)
    correction = corrections.build(experiment.client.correction)
    rule = strategies.build(experiment.server.strategy)
    schedule = registry.build(SCHEDULES, experiment.client.schedule, "client.schedule")
    # Each is tried once, so that what somebody else's component raises is an error of the settings.
    with blamed("server.strategy", experiment.server.strategy.name):
        down(rule)
    with blamed("client.correction", experiment.client.correction.name):
        given = terms(correction)
    with blamed("client.optimizer", experiment.client.optimizer.name):
        if not optimizer.needs:
            optimizer.init(torch.zeros(1), _task(experiment.rounds, given))
    with blamed("client.schedule", experiment.client.schedule.name):
        float(schedule(1, experiment.rounds))
    for key, part, problem in _problems(experiment, optimizer, correction, rule):
        raise ConfigError(f"{key}: {part.name!r} is not allowed here: {problem}")
    if experiment.budget is not None:
        _check_length(experiment, optimizer, correction, rule)


def _task(rounds: int, given: Mapping[str, torch.Tensor]) -> Task:
    """A round of which everything is known, as clients have it: some optimizers cannot begin without their examples."""
    x, y = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long)
    return Task(rounds=rounds, steps=1, class_counts=(1, 1), peek=lambda count: Batch(x, y), terms=given)


def _check_length(experiment: Experiment, optimizer: LocalOptimizer, correction: Correction, rule: ServerRule) -> None:
    """Refuse parts that ask how many rounds there will be, which a run with a budget does not know."""
    w, unknown = torch.zeros(1), cast(int, object())  # whatever is computed with it is a TypeError
    schedule = registry.build(SCHEDULES, experiment.client.schedule, "client.schedule")
    task = Task(rounds=unknown, steps=1, terms=terms(correction))
    sent = Aggregate(
        delta=w,
        mean={name.removeprefix("mean."): w for name in rule.expects},
        population={name.removeprefix("population."): w for name in rule.expects},
        metrics={"steps": 1.0} | {name.removeprefix("metrics."): 1.0 for name in rule.expects},
        rounds=unknown,
    )
    askers: dict[str, tuple[Component, Callable[[], object]]] = {
        "client.schedule": (experiment.client.schedule, lambda: schedule(1, unknown)),
        "client.optimizer": (experiment.client.optimizer, lambda: optimizer.init(w, task)),
        "server.strategy": (
            experiment.server.strategy,
            lambda: isinstance(rule, FlowerRule) or rule.server_step(w, rule.init_state(w), sent),
        ),
    }
    for key, (part, ask) in askers.items():
        try:
            ask()
        except TypeError:
            why = "as set it depends on the number of rounds, which is not known then"
            raise ConfigError(f"{key}: {part.name!r} is not allowed with a budget: {why}") from None


def _problems(
    experiment: Experiment, optimizer: LocalOptimizer, correction: Correction, rule: ServerRule
) -> Iterator[tuple[str, Component, str]]:
    client, server = experiment.client, experiment.server
    absent = [name for name in correction.needs if name not in down(rule)]
    if absent:
        senders = [name for name in STRATEGIES if absent[0] in down(strategies.build(Component(name=name)))]
        yield "client.correction", client.correction, f"server.strategy {server.strategy.name!r} does not send {absent[0]}{_try(senders)}"
    absent = [name for name in rule.expects if name not in (*correction.sends, FREE)]
    if absent:
        givers = [name for name in CORRECTIONS if absent[0] in corrections.build(Component(name=name)).sends]
        yield "server.strategy", server.strategy, f"client.correction {client.correction.name!r} does not send {absent[0]}{_try(givers)}"
    absent = [name for name in rule.mirrors if name not in correction.keeps]
    if absent:
        keepers = [name for name in CORRECTIONS if absent[0] in corrections.build(Component(name=name)).keeps]
        yield "server.strategy", server.strategy, f"client.correction {client.correction.name!r} keeps no {absent[0]}{_try(keepers)}"
    absent = [name for name in optimizer.needs if name not in terms(correction)]
    if absent:
        givers = [name for name in CORRECTIONS if absent[0] in terms(corrections.build(Component(name=name)))]
        yield "client.optimizer", client.optimizer, f"client.correction {client.correction.name!r} gives no {absent[0]}{_try(givers)}"
    absent = [name for name in correction.reads if name not in optimizer.init(torch.zeros(1), Task(terms=terms(correction)))]
    if absent:
        yield "client.correction", client.correction, f"client.optimizer {client.optimizer.name!r} has no {absent[0]}"
    if isinstance(rule, FlowerRule):
        yield from _flower(experiment, correction)


def down(rule: ServerRule) -> dict[str, torch.Tensor]:
    """What a rule sends to clients, for a global vector of one parameter."""
    w = torch.zeros(1)
    return dict(rule.broadcast(w, rule.init_state(w)))


def terms(correction: Correction) -> dict[str, torch.Tensor]:
    """What a correction gives to the local optimizer, for a global vector of one parameter."""
    w = torch.zeros(1)
    return dict(correction.start(w, {name: w for name in ("w", *correction.needs)}, correction.initial(w)))


def _flower(experiment: Experiment, correction: Correction) -> Iterator[tuple[str, Component, str]]:
    part = experiment.client.correction
    if correction.keeps or correction.sends:
        yield "client.correction", part, "Flower's strategies combine the clients' models and nothing else"
    if experiment.server.weights == "uniform":
        yield "server.strategy", experiment.server.strategy, "it does not know server.weights = 'uniform'"


def _try(names: list[str]) -> str:
    return f"; one of {', '.join(sorted(names))} does" if names else ""
