"""Benchmark of client state: memory, disk and seconds to keep the state of every client.

    python -m experiments.benchmarks.client_state [--clients 1000] [--model resnet18] [--vectors 2] [--per-round 50]

Each visited client reads its vectors, checks every scalar, adds 1 and stores them, like a correction with its control variates or duals.
First `--visit` clients (default: as many as fit on disk) are visited once, in rounds of `--per-round`; then `--again` of them, drawn at
random, a second time, when most states must be read back from disk. The object store is small on purpose.

Resident memory counts pages of the shared object store once in each process that touched them, private memory does not: the machine
needs the private memory of all processes plus the object store. Linux only.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.memory_sampler import MemorySampler, Peak, session_folder, store_stats
from fedsam.config import Component, ConfigError
from fedsam.grid.pool import ActorPool
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.session import ray_session
from fedsam.messages import codec
from fedsam.models import architectures
from fedsam.models.flat import Layout
from fedsam.seeds import stream

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings of a measurement.

    Attributes:
        clients: Population.
        size: P, scalars of a vector.
        vectors: Vectors that a client keeps.
        per_round: Cohort.
        visit: Clients that are visited at all.
        again: Clients that are visited twice.
        store: Bytes of the object store.
        shard_size: As in `RayGrid`.
    """

    clients: int
    size: int
    vectors: int
    per_round: int
    visit: int
    again: int
    actors: int
    store: int
    shard_size: int | None = None

    @property
    def state(self) -> int:
        """Bytes of a client's vectors."""
        return 4 * self.size * self.vectors

    @property
    def live(self) -> int:
        """Bytes of all clients' vectors in the end."""
        return self.state * self.visit

    def cohorts(self) -> list[list[int]]:
        """The cohorts of all rounds: first visits in order, then second visits at random."""
        second = stream(0, "second visits").permutation(self.visit)[: self.again].tolist()
        return [part[i : i + self.per_round] for part in (list(range(self.visit)), second) for i in range(0, len(part), self.per_round)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a measurement, in bytes and seconds.

    Attributes:
        wrong: Scalars that came back other than they were kept.
        peaks: By kind of process.
        private: Most private memory of all processes together.
        store: Most of the object store in use.
        disk: Most that lay on disk in spill files.
        spilled, restored: Written to and read from disk altogether.
        disk_end: In spill files once every state is kept and the former ones had time to go.
        disk_released: In spill files after the grid, and so every state, was given up: what else the pool has put into the store.
        folder_left: Whether the session's folder existed after the session.
        first, second: Seconds per client visited for the first and the second time.
    """

    visits: int
    wrong: int
    peaks: Mapping[str, Peak]
    private: int
    store: int
    disk: int
    spilled: int
    restored: int
    disk_end: int
    disk_released: int
    folder_left: bool
    first: float
    second: float


def load() -> ClientApp:
    """Clients that check their vectors, add 1 and keep them; vector j of client c is a pattern + its number among all + visits."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        size, vectors = int(str(context.run_config["size"])), int(str(context.run_config["vectors"]))
        visits = int(str((codec.record(message.content, "config", ConfigRecord) or ConfigRecord())["visits"]))
        first = int(context.node_config["partition-id"]) * vectors
        pattern = torch.arange(size, dtype=torch.float32) % 251
        fresh = {str(j): pattern + (first + j) for j in range(vectors)}
        kept = codec.record(context.state, "kept", ArrayRecord)
        held = fresh if kept is None else codec.tensors(kept)
        wrong = sum(int((held[name] != vector + visits).sum()) for name, vector in fresh.items())
        context.state["kept"] = codec.arrays({name: vector + 1 for name, vector in held.items()})
        return Message(RecordDict({"metrics": MetricRecord({"wrong": wrong})}), reply_to=message)

    return app


def measure(setting: Setting) -> Outcome:
    """Play all rounds of a setting on a Ray of its own."""
    with ray_session(cpus=setting.actors, store=setting.store):
        pool = ActorPool(load, actors=setting.actors)
        grid = RayGrid(pool, setting.clients, {"size": setting.size, "vectors": setting.vectors}, setting.shard_size)
        with MemorySampler(folder := session_folder(), pool.ready()) as sampler:
            wrong, seconds = play(grid, setting, sampler)
            disk_end = _await_disk(sampler, setting.live)
            stats = store_stats()
            del grid
            disk_released = _await_disk(sampler, setting.state - 1)
    return Outcome(
        visits=setting.visit + setting.again,
        wrong=wrong,
        peaks=sampler.peaks,
        private=sampler.private,
        store=sampler.store,
        disk=sampler.disk,
        spilled=stats.spilled_bytes_total,
        restored=stats.restored_bytes_total,
        disk_end=disk_end,
        disk_released=disk_released,
        folder_left=folder.parent.exists(),
        first=seconds[0] / setting.visit,
        second=seconds[1] / max(setting.again, 1),
    )


def play(grid: RayGrid, setting: Setting, sampler: MemorySampler) -> tuple[int, list[float]]:
    """Scalars that were wrong, and seconds of all first and all second visits."""
    wrong, seconds, visits = 0, [0.0, 0.0], [0] * setting.clients
    for number, cohort in enumerate(cohorts := setting.cohorts(), 1):
        start = time.perf_counter()
        replies = list(grid.send_and_receive([_visit(client, visits[client]) for client in cohort]))
        took = time.perf_counter() - start
        wrong += sum(_wrong(reply) for reply in replies)
        seconds[visits[cohort[0]]] += took
        for client in cohort:
            visits[client] += 1
        kept, disk, private = (
            f"{size / GIB:.1f} GiB" for size in (sum(map(bool, visits)) * setting.state, sampler.on_disk(), sampler.private)
        )
        line = f"{took / len(cohort):.3f} s a client, states {kept}, on disk {disk}, peak private memory {private}"
        print(f"round {number}/{len(cohorts)}: {line}", file=sys.stderr)
    return wrong, seconds


def _visit(client: int, visits: int) -> Message:
    content = RecordDict({"config": ConfigRecord({"visits": visits})})
    return Message(content, dst_node_id=client + 1, message_type="train", group_id="1")


def _wrong(reply: Message) -> int:
    if reply.has_error():
        raise RuntimeError(reply.error.reason)
    return int(str((codec.record(reply.content, "metrics", MetricRecord) or MetricRecord())["wrong"]))


def _await_disk(sampler: MemorySampler, wanted: int) -> int:
    """Bytes in spill files once they are no more than `wanted`, or after ten seconds: Ray deletes files some time after their objects."""
    deadline = time.monotonic() + 10
    while sampler.on_disk() > wanted and time.monotonic() < deadline:
        sampler.wait()
    return sampler.on_disk()


def affordable(state: int, per_round: int, keep_free: int) -> int:
    """Clients whose states fit on the disk of temporary files, with a cohort's former states and `keep_free` bytes to spare."""
    return max(0, (shutil.disk_usage(tempfile.gettempdir()).free - keep_free) // state - per_round)


def parameters(model: str) -> int:
    """P of a model for CIFAR-10. Raises `ConfigError` where there is none of that name."""
    return Layout.of_module(architectures.create(Component(name=model), (3, 32, 32), 10, torch.Generator())).size


def report(setting: Setting, outcome: Outcome) -> Table:
    """The outcome, for people."""
    table = Table("what", "value", title=f"{setting.clients} clients, {setting.vectors} vectors of {setting.size:,} scalars each")
    table.add_row("clients visited, of these twice", f"{setting.visit}, {setting.again}")
    table.add_row("a client's state, all states", f"{setting.state / 1e6:.1f} MB, {setting.live / GIB:.1f} GiB")
    table.add_row("seconds per client, first and second visit", f"{outcome.first:.3f}, {outcome.second:.3f}")
    table.add_row("wrong scalars", str(outcome.wrong))
    for kind, peak in outcome.peaks.items():
        table.add_row(f"{kind}: peak resident, private memory", f"{peak.resident / GIB:.2f}, {peak.private / GIB:.2f} GiB")
    table.add_row("all processes: peak private memory", f"{outcome.private / GIB:.2f} GiB")
    table.add_row("object store: size, peak use", f"{setting.store / GIB:.2f}, {outcome.store / GIB:.2f} GiB")
    table.add_row("spilled, restored", f"{outcome.spilled / GIB:.1f}, {outcome.restored / GIB:.1f} GiB")
    table.add_row(
        "on disk: peak, end, states released",
        f"{outcome.disk / GIB:.1f}, {outcome.disk_end / GIB:.1f}, {outcome.disk_released / GIB:.1f} GiB",
    )
    table.add_row("folder left afterwards", "yes" if outcome.folder_left else "no")
    return table


def main(
    clients: Annotated[int, typer.Option(min=1, help="Population.")] = 1000,
    model: Annotated[str, typer.Option(help="Model whose size the vectors have.")] = "resnet18",
    vectors: Annotated[int, typer.Option(min=1, help="Vectors that a client keeps.")] = 2,
    per_round: Annotated[int, typer.Option(min=1, help="Cohort.")] = 50,
    visit: Annotated[int | None, typer.Option(min=1, help="Clients visited; default: all, or as many as the disk holds.")] = None,
    again: Annotated[int | None, typer.Option(min=0, help="Clients visited twice; default: half of the visited.")] = None,
    actors: Annotated[int, typer.Option(min=1, help="Ray actors.")] = 2,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Clients an actor is dealt at once; default: a sixteenth of the cohort.")
    ] = None,
    store: Annotated[float, typer.Option(min=0.08, help="GiB of the object store.")] = 4.0,
    keep_free: Annotated[float, typer.Option(min=0, help="GiB of the disk to leave free.")] = 15.0,
) -> None:
    """Measure, print a table and one line of JSON; exit status 1 if a state came back wrong or was left behind."""
    size = parameters(model)
    most = min(clients, affordable(4 * size * vectors, per_round, int(keep_free * GIB)))
    if most < (visit or 1):
        raise ConfigError(f"visit: {visit} is not allowed: the population and the disk have room for {most}")
    visited = visit or most
    setting = Setting(
        clients=clients,
        size=size,
        vectors=vectors,
        per_round=per_round,
        visit=visited,
        again=visited // 2 if again is None else min(again, visited),
        actors=actors,
        store=int(store * GIB),
        shard_size=shard_size,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the spill files of a killed benchmark stay
    outcome = measure(setting)
    Console().print(report(setting, outcome))
    print(json.dumps({"setting": asdict(setting), "outcome": asdict(outcome)}))
    if outcome.wrong or outcome.disk_released or outcome.folder_left:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
