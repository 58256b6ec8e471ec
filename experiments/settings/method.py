"""The method of an experiment: the components that make its algorithm, built once and then passed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import strategies
from clients import corrections, optimizers
from clients.corrections import Correction
from clients.optimizers import LocalOptimizer
from fedsam import schedules
from fedsam.config import Experiment
from strategies import ServerRule


@dataclass(frozen=True)
class Method:
    """Local optimizer x correction x server rule, and what `schedule(round, rounds)` multiplies: the learning rate, the radius."""

    optimizer: LocalOptimizer
    correction: Correction
    rule: ServerRule
    schedule: Callable[[int, int], float]
    rho_schedule: Callable[[int, int], float]

    @classmethod
    def of(cls, experiment: Experiment) -> Method:
        """The method that the experiment names; `compatibility.check` finds out whether it can run. Raises `ConfigError`."""
        client = experiment.client
        return cls(
            optimizers.build(client.optimizer),
            corrections.build(client.correction),
            strategies.build(experiment.server.strategy),
            schedules.build(client.schedule),
            schedules.build(client.rho_schedule, "client.rho_schedule"),
        )
