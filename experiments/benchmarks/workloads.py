"""The workloads of `fedsam bench`."""

from __future__ import annotations

from dataclasses import dataclass

LR = 0.1
NOOP_SIZE = 62_000  # parameters, as LeNet-5 has
NOOP_ROUNDS = 4  # times as many rounds where clients do nothing, because these are short


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What all ways do: FedAvg, local SGD for one epoch in batches, no evaluation.

    Attributes:
        model: As in `Task.model`.
        examples: Of each client.
        trains: As in `Task.trains`.
        actors: Processes that train; default: as many as are asked for.
    """

    name: str
    title: str
    model: str
    clients: int
    cohort: int
    examples: int
    trains: bool = True
    batch_size: int = 50
    actors: int | None = None

    def rounds(self, asked: int) -> int:
        """Rounds of a run, where `asked` are asked for of clients that train."""
        return asked if self.trains else NOOP_ROUNDS * (asked - 1) + 1


def training(name: str, title: str, model: str, *, clients: int, cohort: int, examples: int) -> Workload:
    """A workload whose clients train."""
    shape = f"{cohort:,} of {clients:,} clients x {examples:,} images"
    return Workload(name=name, title=f"{title}, {shape}", model=model, clients=clients, cohort=cohort, examples=examples)


def noop(clients: int, cohort: int = 100, size: int = NOOP_SIZE, actors: int | None = None) -> Workload:
    """A workload whose clients send back the vector that they got."""
    return Workload(
        name=f"noop-{clients}" if (cohort, size, actors) == (100, NOOP_SIZE, None) else f"noop-{cohort}-of-{clients}-{size}-{actors}",
        title=f"Clients that do nothing, {cohort:,} of {clients:,}, {size:,} parameters",
        actors=actors,
        model=str(size),
        clients=clients,
        cohort=cohort,
        examples=1,
        trains=False,
        batch_size=1,
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        training("lenet5-10x500", "LeNet-5", "lenet5", clients=100, cohort=10, examples=500),
        training("lenet5-100x50", "LeNet-5", "lenet5", clients=1000, cohort=100, examples=50),
        training("cnn-10x500", "CNN of 2.2 M parameters", "cnn", clients=100, cohort=10, examples=500),
        noop(100),
        noop(10_000),
        noop(100_000),
    )
}

# What grows, and the workload for each of its values; the rest stays at 100 of 1,000 clients with the parameters of LeNet-5.
GROWTH: dict[str, dict[int, Workload]] = {
    "registered clients": {clients: noop(clients, min(clients, 100)) for clients in (10, 100, 1_000, 10_000, 100_000)},
    "cohort": {cohort: noop(1_000, cohort) for cohort in (10, 100, 1_000)},
    "parameters": {size: noop(1_000, size=size) for size in (NOOP_SIZE, 10 * NOOP_SIZE, 100 * NOOP_SIZE)},
    "actors": {actors: noop(1_000, actors=actors) for actors in (1, 2, 4)},
}
