"""How a run's rounds are held, and what came of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedsam.config import OnClientError, Weights
from fedsam.messages import aggregation
from fedsam.messages.codec import PartialSum
from fedsam.schedules import CONSTANT_RATE, LocalRate
from fedsam.system.cost import EnergyCounter
from strategies.base import Aggregate
from strategies.sampling import Sampler


class RunError(RuntimeError):
    """A client failed or sent what cannot be used; the message names client, round and seed."""


class DivergedError(RunError):
    """A loss or a vector is not finite, from which no run recovers.

    Attributes:
        round: The round in which it is not.
        client: The first client whose update or loss it is; None where it is none of a client's.
    """

    def __init__(self, text: str, round: int, client: int | None = None) -> None:
        super().__init__(text)
        self.round, self.client = round, client


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


def combined(round: int, total: PartialSum, config: RoundConfig) -> Aggregate:
    """What a server rule takes, from the sum of a round's updates."""
    weights, size = total.metrics["num-examples"] if config.weights == "examples" else None, len(total.nodes)

    def average(values: Sequence[float] | NDArray[np.float64]) -> float:
        return float(np.average(values, weights=weights))

    def vectors(kind: str) -> dict[str, Tensor]:
        return {name.removeprefix(kind): vector for name, vector in total.vectors.items() if name.startswith(kind)}

    norms = np.array(total.metrics["delta-norm"])
    return Aggregate(
        delta=total.vectors["delta"],
        mean=vectors("mean."),
        population={name: vector / config.clients for name, vector in vectors("population.").items()},
        metrics={
            "steps": average(total.metrics["steps"]),
            **{name.removeprefix("sent."): average(values) for name, values in total.metrics.items() if name.startswith("sent.")},
        },
        norm=float(norms.mean()),
        squared_norm=average(norms**2),
        round=round,
        rounds=config.rounds,
        lr=config.lr(round),
        cohort=size,
        clients=config.clients,
        rate=config.rate,
    )


def client_error(round: int, failures: Mapping[int, str], config: RoundConfig, before: str = "") -> RunError:
    """The error that ends a round because of what went wrong, of each client; it names the first.

    It is a `DivergedError` where nothing else went wrong than that updates are not finite.

    Args:
        before: Begins the message.
    """
    client, what = next(iter(failures.items()))
    text = f"{before}client {client} in round {round} (seed {config.seed}) {what}"
    if not all(one.startswith(aggregation.NONFINITE) for one in failures.values()):
        return RunError(text)
    return DivergedError(f"{text}; its learning rate was {config.lr(round):g}", round, client)
