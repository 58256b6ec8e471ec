"""Benchmark of fedsam against a plain loop with the same numbers: the overhead of Ray.

    python -m experiments.benchmarks.federation [--rounds 30] [--repeats 3] [--data-root DIR]

CIFAR-10, 100 clients, Dirichlet 0.3, 10 per round, `cnn`, one local epoch of SGD. The plain loop is what one would write by hand: a
module, `torch.optim.SGD`, a mean of state dicts; no Flower, no Ray, no vector. `split` is the same loop with the cohort dealt to two
processes, largest client first. Times are those of the training part of a round, start-up and evaluation left out; runs are
interleaved and medians quoted, because machines are noisy.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from clients import runtime
from experiments.running.server_app import run
from experiments.settings.catalogue import cohort
from fedsam.config import Experiment, parse
from fedsam.data import datasets
from fedsam.data.federated import FederatedDataset
from fedsam.evaluation.accuracy import evaluate
from fedsam.models.network import Network
from fedsam.seeds import stream

State = dict[str, Tensor]
LR = 0.05


def experiment(rounds: int, root: Path | None, runs_dir: Path) -> Experiment:
    """The setting of this benchmark."""
    return parse(
        {
            "rounds": rounds,
            "runs_dir": str(runs_dir),
            "data": {"dataset": "cifar10", "clients": 100, "partition": {"name": "dirichlet", "alpha": 0.3}, "root": root and str(root)},
            "model": "cnn",
            "client": {"optimizer": {"name": "sgd", "lr": LR}, "batch_size": 50},
            "server": {"participation": 10},
            "measure": {"every": rounds},
            "compute": {"actors": 2},
        }
    )


class Plain:
    """The plain loop's share of the work in one process."""

    def __init__(self, settings: Experiment) -> None:
        torch.set_num_threads(1)
        dataset = datasets.load(settings.data.dataset, settings.data.root)
        self.settings = settings
        self.federation = FederatedDataset.of(settings, dataset, torch.device("cpu"), torch.float32)
        self.module = copy.deepcopy(runtime.network(settings, dataset, torch.device("cpu"), torch.float32).module)

    def train(self, start: State, client: int, round: int) -> tuple[State, int]:
        """One client's local epoch from the state dict `start`."""
        self.module.load_state_dict(start)
        self.module.train()
        optimizer = torch.optim.SGD(self.module.parameters(), lr=LR)
        for x, y in self.federation.batches(client, round, batch_size=self.settings.client.batch_size, epochs=1, steps=None):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.module(x), y).backward()
            optimizer.step()
        return {k: v.clone() for k, v in self.module.state_dict().items()}, self.federation.num_examples(client)

    def share(self, start: State, clients: list[int], round: int) -> tuple[State, int]:
        """Sum of the clients' trained state dicts, weighted by examples, and the examples."""
        results = [self.train(start, client, round) for client in clients]
        return {k: sum(state[k] * n for state, n in results) for k in start}, sum(n for _, n in results)  # type: ignore[misc]

    def cohort(self, round: int) -> list[int]:
        """The cohort that fedsam draws too."""
        draw = stream(self.settings.seed, "cohort", round)
        return sorted(draw.choice(self.settings.data.clients, cohort(self.settings), replace=False).tolist())

    def accuracy(self, state: State) -> float:
        """Test accuracy of a state dict."""
        self.module.load_state_dict(state)
        network = Network(copy.deepcopy(self.module))
        return evaluate(network, network.initial, network.buffers, self.federation.dataset.test, self.federation.dataset).accuracy


def plain(settings: Experiment) -> tuple[list[float], float]:
    """Seconds of each round and final accuracy, one process."""
    place = Plain(settings)
    return _rounds(place, settings, lambda state, chosen, round: [place.share(state, chosen, round)])


def split(settings: Experiment) -> tuple[list[float], float]:
    """Seconds of each round and final accuracy, cohort dealt to two processes."""
    place, context = Plain(settings), multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, settings.dumps()), daemon=True).start()
        ours.recv()
        pipes.append(ours)

    def both(state: State, chosen: list[int], round: int) -> list[tuple[State, int]]:
        shares: list[list[int]] = [[], []]
        for client in sorted(chosen, key=place.federation.num_examples, reverse=True):
            min(shares, key=lambda share: sum(map(place.federation.num_examples, share))).append(client)
        for pipe, share in zip(pipes, shares, strict=True):
            pipe.send((state, share, round))
        return [pipe.recv() for pipe in pipes]

    try:
        return _rounds(place, settings, both)
    finally:
        for pipe in pipes:
            pipe.send(None)


def _serve(pipe: Any, settings: str) -> None:
    place = Plain(Experiment.model_validate_json(settings))
    pipe.send("ready")
    while (task := pipe.recv()) is not None:
        pipe.send(place.share(*task))


def _rounds(
    place: Plain, settings: Experiment, train: Callable[[State, list[int], int], list[tuple[State, int]]]
) -> tuple[list[float], float]:
    state, seconds = {k: v.clone() for k, v in place.module.state_dict().items()}, []
    for round in range(1, settings.rounds + 1):
        start = time.perf_counter()
        shares = train(state, place.cohort(round), round)
        total = sum(n for _, n in shares)
        state = {k: sum(share[k] for share, _ in shares) / total for k in state}
        seconds.append(time.perf_counter() - start)
    return seconds, place.accuracy(state)


def fedsam(settings: Experiment) -> tuple[list[float], float]:
    """Seconds of each round and final accuracy, fedsam on two Ray actors."""
    result = run(settings)
    return [row.wall_seconds for row in result.rows], result.rows[-1].measures["test_accuracy"]


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each run.")] = 30,
    repeats: Annotated[int, typer.Option(help="How often to run each way, interleaved.")] = 3,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the CIFAR-10 files.")] = None,
) -> None:
    """Run the three ways in turn and print medians and ratios."""
    ways = {"plain loop, 1 process": plain, "plain loop, 2 processes": split, "fedsam, 2 Ray actors": fedsam}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    accuracy: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for name, way in ways.items():
                times, accuracy[name] = way(experiment(rounds, data_root, Path(folder)))
                # The first round pays for warming up in every way.
                seconds[name].append(sum(times[1:]) or times[0])
                print(f"repeat {repeat + 1}: {name}: {seconds[name][-1]:.2f} s, accuracy {accuracy[name]:.4f}", file=sys.stderr)
    floor = statistics.median(seconds["plain loop, 2 processes"])
    table = Table("way", f"seconds, {rounds - 1} rounds (median of {repeats})", "ratio to 2 processes", "accuracy")
    for name, times in seconds.items():
        middle = statistics.median(times)
        table.add_row(name, f"{middle:.2f}", f"{middle / floor:.2f}", f"{accuracy[name]:.4f}")
    Console().print(table)
    print(json.dumps({"seconds": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    typer.run(main)
