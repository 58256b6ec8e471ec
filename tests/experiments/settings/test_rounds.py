"""Who depends on the number of rounds says so, and who does not say so cannot compute with a number that is not known."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch

import strategies
from clients import optimizers
from clients.optimizers import OPTIMIZERS
from experiments.contracts.optimizers import task
from experiments.contracts.strategies import aggregate_of
from experiments.settings.catalogue import resolved
from experiments.settings.method_cost import toy
from fedsam import registry
from fedsam.config import Component, ConfigError, Experiment, parse
from fedsam.overrides import override
from fedsam.schedules import SCHEDULES, UnknownRounds, known_rounds, uses_rounds
from strategies import STRATEGIES
from strategies.robust import FlowerRule

UNKNOWN = cast(int, UnknownRounds("key: 'name'"))
SWA = {"name": "swa", "start": 3}
NESTED = ({"name": "ema", "inner": "swa"}, {"name": "swa", "start": 0, "inner": SWA}, {"name": "ema", "inner": SWA})


def asked(declared: bool) -> Any:
    """What computing with the number of rounds must come to."""
    return pytest.raises(ConfigError, match=r"key: 'name' is not allowed with a budget") if declared else nullcontext()


def component(given: str | Mapping[str, Any]) -> Component:
    return Component.model_validate({"name": given} if isinstance(given, str) else given)


@pytest.mark.parametrize("given", [*SCHEDULES, {"name": "cyclic", "start": 3}, {"name": "cyclic", "cycle": 1}], ids=str)
def test_schedules(given: str | Mapping[str, Any]) -> None:
    schedule = registry.build(SCHEDULES, component(given), "client.schedule")
    with asked(uses_rounds(schedule)):
        for round in range(1, 20):
            schedule(round, UNKNOWN)


@pytest.mark.parametrize("given", [*OPTIMIZERS, {"name": "aesam", "total_steps": 9}], ids=str)
def test_optimizers(given: str | Mapping[str, Any]) -> None:
    optimizer = optimizers.build(component(given))
    _, w, batches = toy(2)
    known = task(optimizer, w, batches)
    with asked(optimizer.uses_rounds):
        optimizer.init(w, type(known)(**{**vars(known), "rounds": UNKNOWN}))


@pytest.mark.parametrize("given", [*STRATEGIES, SWA, *NESTED], ids=str)
def test_strategies(given: str | Mapping[str, Any]) -> None:
    rule = strategies.build(component(given))
    if isinstance(rule, FlowerRule):
        assert not rule.uses_rounds
        return
    w = torch.ones(3)
    aggregate = aggregate_of(rule, w)
    with asked(rule.uses_rounds):
        rule.server_step(w, rule.init_state(w), type(aggregate)(**{**vars(aggregate), "rounds": UNKNOWN}))


def test_an_attribute_declares_it_for_others() -> None:
    def ramp(round: int, rounds: int) -> float:
        return round / rounds

    assert not uses_rounds(ramp)
    ramp.uses_rounds = True  # type: ignore[attr-defined]
    assert uses_rounds(ramp)


def test_the_number_is_known_without_a_budget() -> None:
    assert known_rounds(Experiment(rounds=7), "client.schedule", component("ramp")) == 7
    with pytest.raises(ConfigError, match=r"client\.schedule: 'ramp' is not allowed with a budget: it depends on the number of rounds"):
        float(known_rounds(Experiment(rounds=7, budget=9), "client.schedule", component("ramp")))


def test_who_does_not_declare_it_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def ramp(round: int, rounds: int) -> float:
        return round / rounds

    monkeypatch.setitem(SCHEDULES, "ramp", ramp)
    monkeypatch.setattr(OPTIMIZERS["sam"], "init", lambda _, w, task: {"end": task.rounds - 1})
    monkeypatch.setattr(
        STRATEGIES["fedavg"], "server_step", lambda _, w, state, aggregate: (w * (aggregate.round / aggregate.rounds), state)
    )
    for key, name in (("client.schedule", "ramp"), ("client.optimizer", "sam"), ("server.strategy", "fedavg")):
        settings = override({}, {"server.strategy": "fedavgm", key: name})
        resolved(parse(settings))
        with pytest.raises(ConfigError, match=rf"{key}: '{name}' is not allowed with a budget: .* \(it must declare `uses_rounds`\)"):
            resolved(parse(settings | {"budget": 100}))
