"""How a run's rounds are held, and what came of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedsam.config import OnClientError, Weights
from fedsam.schedules import CONSTANT_RATE, LocalRate
from fedsam.system.cost import EnergyCounter
from strategies.sampling import Sampler


class RunError(RuntimeError):
    """A client failed or sent what cannot be used; the message names client, round and seed."""


@dataclass(frozen=True)
class RoundResult:
    """What crossed the network in one round, and what came of it.

    Attributes:
        metrics: Measured cost and loss of each client whose update was used, in ascending order of clients.
        failures: What went wrong, of each other client that was asked.
        retried: What went wrong the first time, of each client that was asked twice.
        dropped: Clients that were sampled and left before they were asked.
        bytes_down: To the whole cohort.
        bytes_up: From the clients whose update was used.
        seconds: From the first broadcast to the new global vector.
        energy: Joules in that time; None where they are not measured.
        evaluate_failures: What went wrong, of each client that was asked to evaluate and whose reply cannot be used.
        evaluate_retried: As `retried`, of the evaluation.
    """

    round: int
    metrics: Mapping[int, Mapping[str, float]]
    failures: Mapping[int, str]
    retried: Mapping[int, str]
    dropped: tuple[int, ...]
    bytes_down: int
    bytes_up: int
    seconds: float
    energy: float | None
    evaluate_failures: Mapping[int, str] = field(default_factory=dict)
    evaluate_retried: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RoundConfig:
    """How a run's rounds are held.

    Attributes:
        clients: Population.
        sample: The cohort of a round: client numbers, ascending.
        drops_out: Whether a sampled client drops out of a round before it is asked.
        rounds: Rounds of the whole run.
        seed: Named in errors.
        lr: Local learning rate of a round, for rules that need it.
        rate: The learning rate over the local steps of a round.
        weights: Weights of the clients in means.
        on_client_error: Stop when a client fails, go on without it, or ask it once more and then stop.
        deadline: Seconds after which a client that is asked once more is late; None: never.
        quorum: Least clients, or share of the cohort, whose updates must be usable.
        shard_size: Updates that are added up first, as in the grid; None: the default.
        acknowledge: Tell each client which of its updates was accepted last, because it keeps state that must not run ahead.
        evaluate_clients: Also have each round's cohort evaluate the new vector on its own examples.
        energy: Counts the joules that training takes; None: not measured.
    """

    clients: int
    sample: Sampler
    drops_out: Callable[[int, int], bool] = field(default=lambda round, client: False)
    rounds: int = 1
    seed: int = 0
    lr: Callable[[int], float] = field(default=lambda round: 1.0)
    rate: LocalRate = CONSTANT_RATE
    weights: Weights = "examples"
    on_client_error: OnClientError = "fail"
    deadline: float | None = None
    quorum: int | float = 1
    shard_size: int | None = None
    acknowledge: bool = False
    evaluate_clients: bool = False
    energy: EnergyCounter | None = None
