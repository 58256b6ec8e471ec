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
    """

    name: str
    title: str
    model: str
    clients: int
    cohort: int
    examples: int
    trains: bool = True
    batch_size: int = 50

    def rounds(self, asked: int) -> int:
        """Rounds of a run, where `asked` are asked for of clients that train."""
        return asked if self.trains else NOOP_ROUNDS * (asked - 1) + 1


def training(name: str, title: str, model: str, *, clients: int, cohort: int, examples: int) -> Workload:
    """A workload whose clients train."""
    shape = f"{cohort:,} of {clients:,} clients x {examples:,} images"
    return Workload(name=name, title=f"{title}, {shape}", model=model, clients=clients, cohort=cohort, examples=examples)


def noop(clients: int, cohort: int = 100, size: int = NOOP_SIZE, name: str = "") -> Workload:
    """A workload whose clients send back the vector that they got."""
    title = f"clients that do nothing, {cohort:,} of {clients:,}, {size:,} parameters"
    return Workload(
        name=name or f"noop-{clients}",
        title=title,
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
