"""Benchmark of the overhead of a round: RayGrid against the simulation runtime of Flower.

    python -m experiments.benchmarks.grid [--rounds 5] [--repeats 3] [--clients 100 ...] [--floats 62000 ...]

The same ClientApp, which returns the arrays it got, under the same strategy, Flower's FedAvg, 100 clients a round, on two actors of one
CPU. Every run has a process of its own; ways are interleaved and medians of all rounds but the first of each run quoted.
`raygrid-merged` lets actors answer once for a shard. `inline` holds the round in one process, without Ray: what the strategy and the
clients take by themselves. What a way takes longer than that is its overhead.
Last, how long RayGrid takes to start once Ray is up, with 100 clients and with 100,000.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import typer
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from rich.console import Console
from rich.table import Table

from fedsam.grid.inline import InlineGrid
from fedsam.grid.pool import ActorPool
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.session import ray_session
from fedsam.messages.flower_private import make_merge_config

COHORT, ACTORS, LARGE_POPULATION = 100, 2, 100_000


class Way(StrEnum):
    """How a round is executed."""

    FLOWER = "flower"
    RAYGRID = "raygrid"
    MERGED = "raygrid-merged"
    INLINE = "inline"


def load() -> ClientApp:
    """Clients that send back what they got."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    return app


def rounds_on(grid: Grid, clients: int, floats: int, rounds: int, merged: bool) -> list[float]:
    """Seconds of each round."""
    share = min(1.0, COHORT / clients)
    strategy = FedAvg(fraction_train=share, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=clients)
    marks: list[float] = []

    def mark(round: int, arrays: ArrayRecord) -> None:
        marks.append(time.perf_counter())

    start = ArrayRecord({"w": Array(np.zeros(floats, dtype=np.float32))})
    config = make_merge_config(strategy) if merged else ConfigRecord()
    strategy.start(grid, start, num_rounds=rounds, train_config=config, evaluate_fn=mark)
    return [after - before for before, after in pairwise(marks)]


def flower(clients: int, floats: int, rounds: int) -> list[float]:
    """Seconds of each round on Flower's runtime."""
    from flwr.simulation import run_simulation

    server, seconds = ServerApp(), []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        seconds.extend(rounds_on(grid, clients, floats, rounds, merged=False))

    resources: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0}, "init_args": {"num_cpus": ACTORS}}
    run_simulation(server, load(), clients, backend_config=resources)
    return seconds


def inline(clients: int, floats: int, rounds: int) -> list[float]:
    """Seconds of each round in this process."""
    return rounds_on(InlineGrid(load, clients, {}), clients, floats, rounds, merged=False)


def raygrid(clients: int, floats: int, rounds: int, merged: bool) -> list[float]:
    """Seconds of each round on RayGrid; the first one's begin when Ray is up and no actor is."""
    with ray_session(cpus=ACTORS):
        start = time.perf_counter()
        grid = RayGrid(ActorPool(load, actors=ACTORS), clients, {})
        made = time.perf_counter()
        first, *others = rounds_on(grid, clients, floats, rounds, merged)
        return [made - start + first, *others]


def measured(way: Way, clients: int, floats: int, rounds: int) -> list[float]:
    """Seconds of each round of a run in a process of its own."""
    command = [sys.executable, "-m", "experiments.benchmarks.grid", "--way", way, "--clients", str(clients)]
    command += ["--floats", str(floats), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def compare(clients: Sequence[int], floats: Sequence[int], rounds: int, repeats: int) -> dict[str, Any]:
    """Measure all ways, interleaved, and print tables; the seconds of all rounds but the first of each run."""
    found: dict[tuple[int, int, Way], list[float]] = {}
    for repeat in range(repeats):
        for size in floats:
            for count in clients:
                for way in Way:
                    found.setdefault((size, count, way), []).extend(measured(way, count, size, rounds)[1:])
                    print(f"repeat {repeat + 1}: {size} floats, {count} clients, {way}", file=sys.stderr)
    starts = {count: [measured(Way.RAYGRID, count, floats[0], 1)[0] for _ in range(repeats)] for count in (COHORT, LARGE_POPULATION)}
    names = {way: way.removeprefix("raygrid-") for way in Way}
    table = Table("floats", "clients", *names.values(), "ratio", "of overheads", title="a round of 100 clients, median, ms")
    table.caption = "ratio: flower / raygrid; overhead: above inline"
    for size in floats:
        for count in clients:
            middle = {way: statistics.median(found[size, count, way]) for way in Way}
            overhead = {way: middle[way] - middle[Way.INLINE] for way in (Way.FLOWER, Way.RAYGRID)}
            cells = [f"{1000 * middle[way]:.1f}" for way in Way]
            cells += [f"{of[Way.FLOWER] / of[Way.RAYGRID]:.0f}" for of in (middle, overhead)]
            table.add_row(str(size), str(count), *cells)
    Console().print(table)
    for count, seconds in starts.items():
        print(f"{count} clients: actors and grid started, first round over, {statistics.median(seconds):.1f} s after Ray is up (median)")
    rows = [{"floats": f, "clients": c, "way": way, "seconds": seconds} for (f, c, way), seconds in found.items()]
    return {"rounds": rows, "start": starts}


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each run; the first does not count.")] = 5,
    repeats: Annotated[int, typer.Option(help="How often to run each way, interleaved.")] = 3,
    clients: Annotated[list[int] | None, typer.Option(help="Populations; default: 100, 1,000 and 10,000.")] = None,
    floats: Annotated[list[int] | None, typer.Option(help="Sizes of the arrays; default: 62,000 and 1,700,000.")] = None,
    way: Annotated[Way | None, typer.Option(help="Run this way alone, once, and print its seconds.")] = None,
) -> None:
    """Compare the ways, or run one."""
    populations, sizes = clients or [100, 1_000, 10_000], floats or [62_000, 1_700_000]
    if way is None:
        print(json.dumps(compare(populations, sizes, rounds, repeats)))
        return
    logging.getLogger("flwr").setLevel(logging.ERROR)
    single, merged = partial(raygrid, merged=False), partial(raygrid, merged=True)
    runs: dict[Way, Callable[[int, int, int], list[float]]] = {
        Way.FLOWER: flower,
        Way.RAYGRID: single,
        Way.MERGED: merged,
        Way.INLINE: inline,
    }
    print(json.dumps(runs[way](populations[0], sizes[0], rounds)))


if __name__ == "__main__":
    typer.run(main)
