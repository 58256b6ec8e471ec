"""Bare PyTorch: the networks of the workloads, and clients that train one after another on one module. Imports torch and NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from experiments.benchmarks.ways.task import Task, Vector


def lenet5() -> nn.Module:
    """As `fedsam.models.architectures.lenet5` for (3, 32, 32)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def cnn() -> nn.Module:
    """As `fedsam.models.architectures.cnn` for (3, 32, 32)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(4096, 512), nn.ReLU(), nn.Linear(512, 10)),
    )


class Vectors(nn.Module):
    """So many parameters, which nobody computes with."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))


def network(task: Task) -> nn.Module:
    """The task's network with its initial weights."""
    module = {"lenet5": lenet5, "cnn": cnn}[task.model]() if task.trains else Vectors(int(task.model))
    load_(module, torch.from_numpy(task.arrays["w"].copy()))
    return module


def load_(module: nn.Module, w: Tensor) -> None:
    """Make the vector (P,) the memory of the module's parameters: who trains the module trains the vector."""
    vector_to_parameters(w, module.parameters())


def vector(module: nn.Module) -> Vector:
    """A copy of the module's parameters (P,)."""
    w: Vector = parameters_to_vector(module.parameters()).detach().numpy()
    return w


def normalized(task: Task) -> tuple[Tensor, Tensor]:
    """All training images as floats (N, C, H, W), and labels (N,)."""
    with np.load(task.images) as file:
        x, y = torch.from_numpy(file["x_train"]).float(), torch.from_numpy(file["y_train"])
    scale, shift = (torch.from_numpy(task.arrays[name]).view(-1, 1, 1) for name in ("scale", "shift"))
    return x.mul_(scale).add_(shift), y


class Trainer:
    """Trains clients one after another on one resident module, with data preloaded as normalized floats."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(1)
        self._task, self._module = task, network(task)
        self._optimizer = torch.optim.SGD(self._module.parameters(), lr=task.lr)
        if task.trains:
            self._x, self._y = normalized(task)

    def total(self, round: int, clients: Sequence[int], w: Vector) -> Vector:
        """Sum of the clients' weights (P,) after their local epochs from `w`."""
        start = torch.from_numpy(w)
        total = torch.zeros_like(start)
        for client in clients:
            mine = start.clone()
            if self._task.trains:
                self._train_(mine, client, round)
            total += mine
        summed: Vector = total.numpy()
        return summed

    def _train_(self, w: Tensor, client: int, round: int) -> None:
        load_(self._module, w)
        for index in torch.from_numpy(self._task.order(client, round)).split(self._task.batch_size):
            self._optimizer.zero_grad()
            cross_entropy(self._module(self._x.index_select(0, index)), self._y[index]).backward()
            self._optimizer.step()
