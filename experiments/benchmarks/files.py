"""What the runs of `fedsam bench` read: synthetic images, the partition, initial weights, and modules for peers' environments."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from clients import runtime
from experiments.benchmarks.contenders import Way
from experiments.benchmarks.ways.fedsam import experiment
from experiments.benchmarks.ways.task import Task
from experiments.benchmarks.workloads import LR, Workload
from fedsam.data import datasets
from fedsam.data.federated import partition_examples
from fedsam.imports import ROOT
from fedsam.seeds import stream

TEST_IMAGES = 100


@dataclass(frozen=True)
class Files:
    """The files of workloads, each made once.

    Attributes:
        folder: Where they are.
        seed: Of images, partitions and weights.
        actors: Processes that train, where the workload does not say.
    """

    folder: Path
    seed: int
    actors: int

    def task(self, way: Way, workload: Workload, rounds: int) -> Task:
        """The task of a way, with all that it reads; the socket has to be opened yet."""
        optimizer = {"name": way.optimizer, "lr": LR}
        task = Task(
            model=workload.model,
            clients=workload.clients,
            cohort=workload.cohort,
            trains=workload.trains,
            rounds=rounds,
            seed=self.seed,
            batch_size=workload.batch_size,
            optimizer=optimizer,
            grid=way.grid,
            actors=workload.actors or self.actors,
            images=str(self._images(workload)),
            start=str(self.folder / f"{workload.name}.npz"),
            clock=str(self.folder / "clock"),
            weights=str(self.folder / "weights.npy"),
        )
        if not Path(task.start).exists():
            self._write_start(replace(task, optimizer={"name": "sgd", "lr": LR}))
        return task

    def bare_modules(self) -> Path:
        """A folder to import the ways of peers from: with nothing of fedsam's but what they need, which imports NumPy and torch alone."""
        root = self.folder / "bare"
        if not root.exists():
            for package in ("fedsam", "experiments/benchmarks/ways"):
                (root / package).mkdir(parents=True)
            shutil.copy(ROOT / "fedsam/seeds.py", root / "fedsam")
            for module in (ROOT / "experiments/benchmarks/ways").glob("*.py"):
                shutil.copy(module, root / "experiments/benchmarks/ways")
            for package in ("fedsam", "experiments", "experiments/benchmarks"):
                (root / package / "__init__.py").touch()
        return root

    def _images(self, workload: Workload) -> Path:
        """Images of 10 classes that can be told apart, uint8 (3, 32, 32), as `npz:PATH` reads them; smaller where nobody trains."""
        count, shape = workload.clients * workload.examples, (3, 32, 32) if workload.trains else (1, 8, 8)
        file = self.folder / f"images-{count}-{shape[-1]}.npz"
        if not file.exists():
            draw = stream(self.seed, "images")
            y = np.arange(count + TEST_IMAGES) % 10
            x = draw.integers(0, 128, (len(y), *shape), dtype=np.uint8)
            x += draw.integers(0, 128, (10, *shape), dtype=np.uint8)[y]
            np.savez(file, x_train=x[:count], y_train=y[:count], x_test=x[count:], y_test=y[count:])
        return file

    def _write_start(self, task: Task) -> None:
        """Write the partition, the initial weights and the normalization, which are fedsam's."""
        settings = experiment(task)
        dataset = datasets.load(settings.data.dataset)
        w = runtime.network(settings, dataset, torch.device("cpu"), torch.float32).initial
        mean, std = np.array(dataset.mean), np.array(dataset.std)
        scale, shift = ((1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32))
        np.savez(task.start, indices=np.stack(partition_examples(settings, dataset)), w=w.numpy(), scale=scale, shift=shift)
