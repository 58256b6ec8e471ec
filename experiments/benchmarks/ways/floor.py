"""The floor: what the work takes without a framework. As many processes as fedsam has actors, one thread each, joined by pipes."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

from experiments.benchmarks.ways.task import Clock, Task


def main(task: Task) -> None:
    """Run the task; this process trains its share, too."""
    clock, context = Clock(task), multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(task.actors - 1):  # before this process imports torch, so that all of them import it at once
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, task), daemon=True).start()
        pipes.append(ours)
    from experiments.benchmarks.ways.plain import Trainer

    trainer, w = Trainer(task), task.arrays["w"]
    for round in task.rounds_to_run():
        cohort = task.cohort_of(round)
        first, *others = (cohort[rank :: task.actors] for rank in range(task.actors))
        for pipe, share in zip(pipes, others, strict=True):
            pipe.send((round, share, w))
        total = trainer.total(round, first, w)
        for pipe in pipes:
            total += pipe.recv()
        w = total / len(cohort)
        clock.mark(round)
    for pipe in pipes:
        pipe.send(None)
    task.keep(w)


def _serve(pipe: Connection, task: Task) -> None:
    from experiments.benchmarks.ways.plain import Trainer

    trainer = Trainer(task)
    while (share := pipe.recv()) is not None:
        pipe.send(trainer.total(*share))
