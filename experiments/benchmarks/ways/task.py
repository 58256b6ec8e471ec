"""What a way is asked to do, and how it tells the time of its rounds. Imports NumPy alone: peers have environments of their own."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsam.seeds import stream

Ints = NDArray[np.int64]
Vector = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of a workload: FedAvg, local SGD for one epoch, no evaluation. Round `rounds` + 1 follows those that are timed.

    Attributes:
        model: `lenet5`, `cnn`, or a number of parameters.
        clients: Population.
        cohort: Clients of a round.
        trains: Whether clients train; if not, they send back what they got.
        rounds: Rounds that are timed, the first one included.
        optimizer: fedsam's local optimizer with its settings; others than fedsam run SGD with its `lr`.
        grid: Of fedsam: `ray` or `inline`.
        actors: Processes that train, each with one thread.
        images: npz file with x_train, y_train, x_test, y_test.
        start: npz file with the partition `indices` (clients, examples), initial weights `w` (P,), and `scale` and `shift` of each
            channel, with which a pixel is normalized.
        clock: Path of the socket on which the rounds are timed.
        weights: File to write the final weights (P,) to.
    """

    model: str
    clients: int
    cohort: int
    trains: bool
    rounds: int
    seed: int
    batch_size: int
    optimizer: Mapping[str, Any]
    grid: str
    actors: int
    images: str
    start: str
    clock: str
    weights: str

    @classmethod
    def read(cls, file: str) -> Task:
        """The task in a file that `write` wrote."""
        return cls(**json.loads(Path(file).read_text()))

    def write(self, file: Path) -> None:
        """Write the task as JSON."""
        file.write_text(json.dumps(asdict(self)))

    @cached_property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The arrays of `start`."""
        with np.load(self.start) as file:
            return {name: file[name] for name in file.files}

    @property
    def lr(self) -> float:
        """Learning rate."""
        return float(self.optimizer["lr"])

    def cohort_of(self, round: int) -> list[int]:
        """The clients of a round, as fedsam draws them."""
        return sorted(stream(self.seed, "cohort", round).choice(self.clients, self.cohort, replace=False).tolist())

    def order(self, client: int, round: int) -> Ints:
        """The client's examples in the order of its local epoch, as fedsam draws it."""
        return stream(self.seed, "batches", round, client).permutation(self.arrays["indices"][client])

    def rounds_to_run(self) -> range:
        """All rounds, the last one, which is not timed, included."""
        return range(1, self.rounds + 2)

    def keep(self, w: Vector) -> None:
        """Write the final weights."""
        np.save(self.weights, w)


class Clock:
    """Tells the process that measures when a round ends, and waits for its answer, which counts to no round.

    Args:
        settle: Waits, after the first round, for what is still starting; the other rounds begin then.
    """

    def __init__(self, task: Task, settle: Callable[[], object] = lambda: None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(task.clock)
        self._settle = settle
        self._began: float | None = None

    def mark(self, round: int) -> None:
        """A round has ended. The first one began with the process."""
        self._tell({"round": round, "began": self._began, "ended": time.monotonic()})
        if round == 1:
            self._settle()
            self._tell({"settled": True})
        self._began = time.monotonic()

    def _tell(self, what: Mapping[str, Any]) -> None:
        self._socket.sendall(json.dumps(what).encode())
        self._socket.recv(1)
