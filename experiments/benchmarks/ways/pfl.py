"""pfl-research: its FederatedAveraging on its simulator, one process for each actor, joined by gloo; started by torchrun.

pfl has an environment of its own, so that this module can be imported without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.benchmarks.ways import plain
from experiments.benchmarks.ways.task import Clock, Task


class Network(torch.nn.Module):
    """A network as pfl wants it, with its loss."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean loss of a batch."""
        return cross_entropy(self.body(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """None are wanted."""
        return {}


def users(task: Task) -> Iterator[tuple[int, int]]:
    """Client and round of each local training, in order; pfl draws ahead, so they do not end."""
    round = 1
    while True:
        for client in task.cohort_of(round):
            yield client, round
        round += 1


def main(task: Task) -> None:
    """Run the task; the first process tells the time."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.internal.ops import pytorch_ops

    torch.set_num_threads(1)
    module, rounds = Network(plain.network(task)), len(task.rounds_to_run())
    model = _model(task, module)  # before the data: from then on pfl knows that there are several processes
    data, first = _data(task), pytorch_ops.distributed.global_rank == 0
    _algorithm().run(
        NNAlgorithmParams(central_num_iterations=rounds, evaluation_frequency=1, train_cohort_size=task.cohort, val_cohort_size=None),
        SimulatedBackend(data, data, [WeightByDatapoints()]),
        model,
        NNTrainHyperParams(local_batch_size=task.batch_size, local_num_epochs=1, local_learning_rate=task.lr),
        callbacks=[_callback(Clock(task))] if first else [],
    )
    if first:
        task.keep(plain.vector(module))


def _data(task: Task) -> Any:
    """The users' examples, preloaded; a user is a client in a round, so that its examples are in the round's order."""
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset

    nothing = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    x, y = plain.normalized(task) if task.trains else nothing

    def examples(user: tuple[int, int]) -> Any:
        if not task.trains:
            return PyTorchTensorDataset(nothing)
        order = torch.from_numpy(task.order(*user))
        return PyTorchTensorDataset((x.index_select(0, order), y[order]))

    return FederatedDataset(examples, iter(users(task)).__next__)


def _model(task: Task, module: Network) -> Any:
    """The model whose local training is SGD, or nothing."""
    from pfl.context import LocalResultMetaData
    from pfl.model.pytorch import PyTorchModel

    class Untrained(PyTorchModel):  # type: ignore[misc]  # pfl is not installed where types are checked
        def do_multiple_epochs_of(self, *_: Any, **__: Any) -> Any:
            return LocalResultMetaData(num_steps=0)

    kind = PyTorchModel if task.trains else Untrained
    return kind(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))


def _algorithm() -> Any:
    """FedAvg without the evaluation of every client before and after the first round, on which pfl insists."""
    from pfl.algorithm.federated_averaging import FederatedAveraging

    class Unevaluated(FederatedAveraging):  # type: ignore[misc]  # as above
        def get_next_central_contexts(self, *arguments: Any) -> Any:
            contexts, model, metrics = super().get_next_central_contexts(*arguments)
            return contexts and tuple(dataclasses.replace(one, do_evaluation=False) for one in contexts), model, metrics

    return Unevaluated()


def _callback(clock: Clock) -> Any:
    """Marks the end of each round."""
    from pfl.callback.base import TrainingProcessCallback
    from pfl.metrics import Metrics

    class MarkRounds(TrainingProcessCallback):  # type: ignore[misc]  # as above
        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> tuple[bool, Any]:
            clock.mark(central_iteration + 1)  # pfl counts from 0
            return False, Metrics()

    return MarkRounds()
