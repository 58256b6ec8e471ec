"""Actors that die at their start, an actor's share of a GPU, and memory that runs out; the rest is tested through the grids."""

from __future__ import annotations

import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid.actor import ClientActor, ClientTask, CrowdedError, serve
from fedsam.grid.pool import ActorPool
from fedsam.grid.session import import_ray
from fedsam.messages import flower_private


@pytest.mark.parametrize(
    ("gpus", "memory", "expected"), [(0.0, None, None), (0.0, 0.5, None), (0.25, None, 0.25), (0.25, 0.2, 0.2), (2.0, None, 1.0)]
)
def test_an_actor_may_use_its_share_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, gpus: float, memory: float | None, expected: float | None
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    import_ray(private=True)  # as other tests of this process need it
    pool = ActorPool(ClientApp, actors=0, gpus=gpus, memory=memory)
    ClientActor(ClientApp, 1, {}, pool.memory)
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


def test_the_parts_of_a_pool_know_which_actors_are_on_other_machines() -> None:
    import_ray(private=True)
    pool = ActorPool(ClientApp, actors=0)
    pool.busy, pool.away = {"near": 0, "far": 0, "farther": 0}, {"far", "farther"}
    parts = pool.split(2)
    assert [(list(part.busy), part.away) for part in parts] == [(["near", "farther"], {"farther"}), (["far"], {"far"})]
    assert (pool.busy, pool.away) == ({}, set())


def greedy(times: int) -> tuple[ClientApp, list[int]]:
    """Clients that run out of memory so many times, and their calls; they leave a mark in the context's state before."""
    app, calls = ClientApp(), list[int]()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        assert not context.state
        context.state["mark"] = message.content["mark"]
        calls.append(len(calls))
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return Message(RecordDict(), reply_to=message)

    return app, calls


def asked(app: ClientApp, *, shared: bool = False) -> tuple[Message, RecordDict]:
    flower_private.set_current_run(flower_private.new_run())
    content = RecordDict({"mark": MetricRecord({"here": 1})})
    message = Message(content, dst_node_id=1, message_type="train")
    flower_private.set_message_id(message, "0")
    return serve(app, ClientTask(message.metadata, {}, {}, {}), content, RecordDict(), shared=shared)


@pytest.mark.parametrize("times", [0, 1])
def test_a_client_that_runs_out_of_memory_once_is_tried_again(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    app, calls = greedy(times)
    reply, state = asked(app, shared=True)
    assert not reply.has_error()
    assert list(state) == ["mark"]
    assert len(calls) == times + 1
    assert len(emptied) == times


def test_a_client_that_does_not_fit_wants_fewer_on_its_gpu_and_alone_is_an_error() -> None:
    with pytest.raises(CrowdedError):
        asked(greedy(2)[0], shared=True)
    reply, state = asked(greedy(2)[0])
    assert reply.error.code == flower_private.CLIENT_APP_RAISED
    assert reply.error.reason.startswith("the GPU's memory is too small for one client alone: lower the batch size")
    assert not state


def unanswering(kind: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return {"none": None, "itself": message}[kind]  # type: ignore[return-value]

    return app


@pytest.mark.parametrize(("kind", "type"), [("none", "NoneType"), ("itself", "Message")])
def test_what_is_no_reply_is_an_error(kind: str, type: str) -> None:
    reply, _ = asked(unanswering(kind))
    assert reply.error.code == flower_private.CLIENT_APP_RAISED
    assert reply.error.reason.startswith(f"TypeError: the ClientApp gave a {type} that is no reply to its message")


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
