"""Actors that die at their start, and an actor's share of a GPU; the rest is tested through the grids."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.clientapp import ClientApp

from fedsam.grid import actor
from fedsam.grid.actor import ClientActor
from fedsam.grid.pool import ActorPool, Stored
from fedsam.grid.session import import_ray


@pytest.mark.parametrize(
    ("gpus", "memory", "expected"), [(0.0, None, None), (0.0, 0.5, None), (0.25, None, 0.25), (0.25, 0.2, 0.2), (2.0, None, 1.0)]
)
def test_an_actor_may_use_its_share_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, gpus: float, memory: float | None, expected: float | None
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    ray = import_ray(private=True)  # as other tests of this process need it
    monkeypatch.setattr(ray, "get", {"load": ClientApp}.get)
    monkeypatch.setattr(actor, "pause_collection", lambda: None)
    pool = ActorPool(ClientApp, actors=0, gpus=gpus, memory=memory)
    ClientActor(["load"], 1, {}, pool.memory)
    assert limits == ([] if expected is None else [expected])


def test_a_pool_whose_actors_die_at_their_start_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = import_ray(private=True)
    pool, starts = ActorPool(ClientApp, actors=0), []

    def start() -> None:
        starts.append(len(starts))
        pool.starting[len(starts)] = f"actor {len(starts)}"

    def die(reference: object) -> None:
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(pool, "_start", start)
    monkeypatch.setattr(ray, "get", die)
    start()
    with pytest.raises(RuntimeError, match="actors die at their start, 4 in a row"):
        for _ in range(9):
            pool.admit(len(starts))
    assert len(starts) == 5
    assert pool.free() is None


class RayThatStarts:
    """In place of `RayStart`."""

    def __init__(self) -> None:
        self.up = False

    def is_up(self, *, wait: bool = False) -> bool:
        self.up |= wait
        return self.up


@pytest.mark.parametrize("parts", [False, True])
def test_actors_start_once_ray_is_up_and_one_is_when_nothing_waits(monkeypatch: pytest.MonkeyPatch, parts: bool) -> None:
    ray = import_ray(private=True)
    started, supplied = list[object](), list[object]()

    def start(pool: ActorPool) -> None:
        started.append(pool._supplies)
        pool.starting[f"reference {len(started)}"] = "actor {len(started)}"

    monkeypatch.setattr(ActorPool, "_start", start)
    monkeypatch.setattr(ray, "get", lambda reference: (1, "here"))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    starting: Any = RayThatStarts()
    pool = ActorPool(ClientApp, actors=4, ray_start=starting, first=2)
    if parts:
        (pool,) = pool.split(1)
    pool.supply(data=Stored(lambda: supplied.append("data") or "a reference"))
    pool.start(wait=False)
    assert (pool.size, started, supplied, pool.put("a state")) == (4, [], [], "a state")
    starting.up = True
    for _ in range(2):
        pool.start(wait=False)
        assert (pool.size, started, supplied) == (4, [{"data": "a reference"}] * 2, ["data"])
    pool.admit("reference 1")
    assert (pool.size, len(started), list(pool.starting)) == (4, 4, ["reference 2", "reference 3", "reference 4"])


def test_all_actors_start_at_once_for_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    import_ray(private=True)
    monkeypatch.setattr(ActorPool, "_start", lambda pool: pool.starting.update({len(pool.starting): "actor"}))
    starting: Any = RayThatStarts()
    pool = ActorPool(ClientApp, actors=4, ray_start=starting, first=2)
    pool.start(wait=True)
    assert starting.up
    assert (pool.size, len(pool.starting)) == (4, 4)


def test_the_parts_of_a_pool_know_which_actors_are_on_other_machines() -> None:
    import_ray(private=True)
    pool = ActorPool(ClientApp, actors=0)
    pool.busy, pool.away = {"near": 0, "far": 0, "farther": 0}, {"far", "farther"}
    parts = pool.split(2)
    assert [(list(part.busy), part.away) for part in parts] == [(["near", "farther"], {"farther"}), (["far"], {"far"})]
    assert (pool.busy, pool.away) == ({}, set())


@pytest.mark.parametrize(
    ("actors", "share", "fewer", "larger"),
    [(4, 0.25, 2, 0.5), (2, 0.5, 1, 1.0), (6, 1 / 3, 2, 2 / 3), (1, 0.25, 1, 0.5), (20, 0.1, 10, 0.2)],
)
def test_a_pool_spreads_over_its_gpus(actors: int, share: float, fewer: int, larger: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ray, killed = import_ray(private=True), list[object]()
    pool = ActorPool(ClientApp, actors=0, gpus=share)
    pool.busy = dict.fromkeys(map(str, range(actors)), 1)
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(pool, "_start", lambda: pool.starting.update({len(pool.starting): "new"}))
    assert pool.shared
    pool.spread()
    assert len(killed) == actors
    assert (pool.size, pool.gpus, pool.memory, pool.busy) == (fewer, pytest.approx(larger), pytest.approx(larger), {})
    assert pool.shared == (larger <= 0.5)
