"""Grids with toy apps: order, state, errors, dead actors.

All tests share two pools, whose actors load another app where a test has one.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid import ray_grid, scheduler
from fedsam.grid.base import LocalGrid
from fedsam.grid.inline import InlineGrid
from fedsam.grid.pool import ActorPool
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.serving import LocalServer
from fedsam.grid.session import import_ray
from fedsam.messages import flower_private
from tests.support.processes import HANG
from tests.support.shared_ray import SharedRay, load

CLIENTS = 9


def adding() -> ClientApp:
    """Adds the client's number to `w`, counts its calls in the state; client 3 raises from its second call on. Queries tell the process."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
        context.state["calls"] = MetricRecord({"n": calls})
        if client == 3 and calls > 1:
            raise ValueError("tired")
        w = message.content["arrays"].pop("w").numpy()  # takes it away: others must still find theirs
        reply = {"arrays": ArrayRecord({"w": Array(w + client)}), "metrics": MetricRecord({"calls": calls, "pid": os.getpid()})}
        return Message(RecordDict(reply), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"pid": os.getpid()})}), reply_to=message)

    return app


@pytest.fixture(scope="module")
def pool(shared_ray: SharedRay) -> Iterator[ActorPool]:
    with shared_ray.pool(3) as pool:
        yield pool


@pytest.fixture(scope="module")
def single(shared_ray: SharedRay) -> Iterator[ActorPool]:
    with shared_ray.pool(1) as pool:
        yield pool


def ready(pool: ActorPool, make: Callable[[], ClientApp]) -> ActorPool:
    """The pool with its actors up and their app loaded."""
    pool.supply(make=make)
    pool.ready()
    return pool


def messages(clients: range = range(CLIENTS)) -> list[Message]:
    shared = ArrayRecord({"w": Array(np.arange(3.0))})
    return [Message(RecordDict({"arrays": shared}), dst_node_id=c + 1, message_type="train", group_id="1") for c in clients]


def outcome(reply: Message) -> object:
    if reply.has_error():
        return reply.error.code, reply.error.reason.splitlines()[0]
    return reply.metadata.src_node_id, reply.content["arrays"]["w"].numpy().tolist(), reply.content["metrics"]["calls"]


def pids(replies: Iterable[Message]) -> set[int]:
    return {int(reply.content["metrics"]["pid"]) for reply in replies}


def rounds(grid: LocalGrid, count: int = 3) -> list[list[object]]:
    return [[outcome(reply) for reply in grid.send_and_receive(messages())] for _ in range(count)]


@pytest.mark.parametrize("shard_size", [None, 1, 4, 100])
def test_every_grid_gives_the_same_replies_in_order(pool: ActorPool, shard_size: int | None) -> None:
    inline = rounds(InlineGrid(adding, CLIENTS, {}))
    assert inline[0][4] == (5, [4.0, 5.0, 6.0], 1)
    assert inline[2][4] == (5, [4.0, 5.0, 6.0], 3)
    assert inline[1][3] == (2, "ValueError: tired")
    assert rounds(RayGrid(ready(pool, adding), CLIENTS, {}, shard_size)) == inline


def late(flag: Path) -> ClientApp:
    """`adding`, once there is a file: an actor is not up before."""
    while not flag.exists():
        time.sleep(0.01)
    return adding()


def local_grid(pool: ActorPool, flag: Path, shard_size: int, app: Callable[[], ClientApp] = adding) -> RayGrid:
    pool.supply(make=partial(late, flag))
    pool.lost = False  # which other tests have
    grid = RayGrid(pool, CLIENTS, {}, shard_size)
    grid.local_server = LocalServer(app, 1)
    return grid


@pytest.mark.parametrize("shard_size", [1, 4, 100])
def test_this_process_trains_clients_until_an_actor_is_up(pool: ActorPool, tmp_path: Path, shard_size: int) -> None:
    grid = local_grid(pool, tmp_path / "flag", shard_size)
    first = grid.send_and_receive(messages())
    assert pids(first) == {os.getpid()}
    (tmp_path / "flag").touch()
    pool.ready()
    later = [grid.send_and_receive(messages()) for _ in range(2)]
    assert not any(os.getpid() in pids(reply for reply in replies if not reply.has_error()) for replies in later)
    assert [list(map(outcome, replies)) for replies in (first, *later)] == rounds(InlineGrid(adding, CLIENTS, {}))


def whole_here(pool: ActorPool, monkeypatch: pytest.MonkeyPatch, app: Callable[[], ClientApp] = adding) -> RayGrid:
    """A grid with actors, which by its scheduler take longer than this process; its shards are of two clients."""
    monkeypatch.setattr(scheduler.Scheduler, "choose_one_process", lambda *_: True)
    grid = RayGrid(ready(pool, adding), CLIENTS, {}, 2)
    grid.local_server, pool.lost = LocalServer(app, 1), False
    return grid


def test_exchanges_of_actors_are_timed_before_this_process_serves_one(pool: ActorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MOST_CALL_SECONDS", "LEAST_SPEEDUP", "ONE_PROCESS_MARGIN"):
        monkeypatch.setattr(scheduler, limit, float("inf"))  # whatever the clock says
    grid = RayGrid(ready(pool, adding), CLIENTS, {})
    grid.local_server, pool.lost = LocalServer(adding, 1), False
    here = [os.getpid() in pids(r for r in grid.send_and_receive(messages()) if not r.has_error()) for _ in range(22)]
    assert here == [False] * 2 + [True] * 19 + [False]


def drawing() -> ClientApp:
    """Sends what Python's generator draws, which it does not seed."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"drawn": random.random()})}), reply_to=message)

    return app


def test_an_app_of_others_draws_other_numbers_in_each_call(single: ActorPool) -> None:
    for grid in (RayGrid(ready(single, drawing), CLIENTS, {}), InlineGrid(drawing, CLIENTS, {})):
        drawn = {float(reply.content["metrics"]["drawn"]) for _ in range(2) for reply in grid.send_and_receive(messages())}
        assert len(drawn) == 2 * CLIENTS


def test_an_interrupt_while_this_process_serves_an_exchange_leaves_the_grid_and_its_actors_usable(
    pool: ActorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, inner, answered = ClientApp(), adding(), list[Message]()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if int(context.node_config["partition-id"]) == 3:  # of the second shard
            raise KeyboardInterrupt
        reply: Message = inner(message, context)
        return reply

    grid, actors = whole_here(pool, monkeypatch, lambda: app), pool.ready()
    grid.push_background([Message(messages()[0].content, dst_node_id=1, message_type="query", group_id="1")], answered.extend)
    with pytest.raises(KeyboardInterrupt):
        grid.send_and_receive(messages())
    monkeypatch.setattr(scheduler.Scheduler, "choose_one_process", lambda *_: False)
    assert [outcome(reply) for reply in grid.send_and_receive(messages(range(2, 9)))] == rounds(InlineGrid(adding, CLIENTS, {}), 1)[0][2:]
    grid.await_background()
    assert len(answered) == 1
    assert pool.ready() == actors


def test_this_process_serves_all_of_an_exchange_for_which_actors_take_longer(pool: ActorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = whole_here(pool, monkeypatch)
    found, first = rounds(grid, 1), grid.send_and_receive(messages())
    assert pids(reply for reply in first if not reply.has_error()) == {os.getpid()}
    monkeypatch.setattr(scheduler.Scheduler, "choose_one_process", lambda *_: False)
    third = grid.send_and_receive(messages())
    assert os.getpid() not in pids(reply for reply in third if not reply.has_error())
    assert [*found, list(map(outcome, first)), list(map(outcome, third))] == rounds(InlineGrid(adding, CLIENTS, {}))


def test_actors_go_on_in_the_background_while_this_process_serves_all_of_an_exchange(
    single: ActorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, answered = whole_here(single, monkeypatch), list[Message]()
    queries = [Message(message.content, dst_node_id=1, message_type="query", group_id="1") for message in messages(range(3))]
    grid.push_background(queries, answered.extend)
    waiting = RayGrid._collect
    monkeypatch.setattr(RayGrid, "_collect", lambda grid, timeout: waiting(grid, HANG if grid._scheduler.calls else timeout))
    assert pids(grid.send_and_receive(messages())) == {os.getpid()}
    assert len(answered) == 3  # one after another, while the five shards were served
    assert os.getpid() not in pids(answered)


def test_actors_that_an_interrupt_ends_are_not_lost_over_a_client(pool: ActorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, pool.lost = RayGrid(ready(pool, adding), CLIENTS, {}), False

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RayGrid, "_collect", interrupt)
    with pytest.raises(KeyboardInterrupt):
        grid.send_and_receive(messages())
    assert len(pool.starting) > 0  # in the place of those at work
    assert not pool.lost


def test_once_an_actor_was_lost_this_process_serves_no_clients(pool: ActorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, notes = whole_here(pool, monkeypatch), list[str]()
    grid.warn = notes.append
    monkeypatch.setattr(scheduler.Scheduler, "choose_one_process", lambda *_: False)
    os.kill(victim := pool.ready()[0], signal.SIGKILL)
    first = grid.send_and_receive(messages())
    assert any("an actor died" in note for note in notes)
    monkeypatch.setattr(scheduler.Scheduler, "choose_one_process", lambda *_: True)
    assert {os.getpid(), victim}.isdisjoint(pids(reply for reply in grid.send_and_receive(messages()) if not reply.has_error()))
    assert list(map(outcome, first)) == rounds(InlineGrid(adding, CLIENTS, {}), 1)[0]


def test_a_shard_that_this_process_has_not_finished_goes_to_an_actor_that_is_up(pool: ActorPool, tmp_path: Path) -> None:
    import ray

    served = list[int]()

    def counting() -> ClientApp:
        app, inner = ClientApp(), adding()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            served.append(int(context.node_config["partition-id"]))
            if len(served) == 6:  # the second of the second shard
                (tmp_path / "flag").touch()
                ray.wait(list(pool.starting), timeout=HANG)
            reply: Message = inner(message, context)
            return reply

        return app

    grid = local_grid(pool, tmp_path / "flag", 4, counting)
    first = grid.send_and_receive(messages())
    assert served == [0, 1, 2, 3, 4, 5]
    assert [int(reply.content["metrics"]["pid"]) == os.getpid() for reply in first] == [True] * 4 + [False] * 5
    assert [list(map(outcome, first)), *rounds(grid, 2)] == rounds(InlineGrid(adding, CLIENTS, {}))


def test_an_interrupt_while_this_process_trains_leaves_the_grid_usable(pool: ActorPool, tmp_path: Path) -> None:
    def interrupted() -> ClientApp:
        raise KeyboardInterrupt

    grid = local_grid(pool, tmp_path / "flag", 4, interrupted)
    with pytest.raises(KeyboardInterrupt):
        grid.send_and_receive(messages())
    (tmp_path / "flag").touch()
    pool.ready()
    assert rounds(grid, 2) == rounds(InlineGrid(adding, CLIENTS, {}), 2)


@pytest.mark.parametrize("limit", ["timeout", "time to live"])
def test_this_process_does_not_train_against_the_clock(pool: ActorPool, tmp_path: Path, limit: str) -> None:
    (tmp_path / "flag").touch()
    grid, sent = local_grid(pool, tmp_path / "flag", 1), messages()
    sent[-1].metadata.ttl = HANG if limit == "time to live" else sent[-1].metadata.ttl
    replies = grid.send_and_receive(sent, timeout=HANG if limit == "timeout" else None)
    assert len(replies) == CLIENTS
    assert pids(replies).isdisjoint({os.getpid()})


@pytest.mark.parametrize("kinds", [("train",), ("train", "query")])
def test_this_process_answers_those_queries_alone_that_are_quick(pool: ActorPool, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    grid, replies = local_grid(pool, tmp_path / "flag", 4), list[Message]()
    grid.local_server = LocalServer(adding, 1, kinds)
    assert pids(grid.send_and_receive(messages())) == {os.getpid()}
    queries = [Message(message.content, dst_node_id=1, message_type="query", group_id="1") for message in messages(range(3))]
    grid.push_background(queries, replies.extend)
    assert not replies
    if kinds == ("train",):
        (tmp_path / "flag").touch()
    grid.await_background()
    assert len(replies) == 3
    assert (pids(replies) == {os.getpid()}) == (kinds == ("train", "query"))
    (tmp_path / "flag").touch()
    pool.ready()


def test_a_query_during_which_an_actor_fails_to_load_its_app_is_not_lost(
    pool: ActorPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, replies, collect = local_grid(pool, tmp_path / "flag", 4), list[Message](), RayGrid._collect
    grid.local_server = LocalServer(adding, 1, ("query",))
    queries = [Message(message.content, dst_node_id=1, message_type="query", group_id="1") for message in messages(range(3))]
    grid.push_background(queries, replies.extend)

    def fail(*_: object) -> bool:
        raise ImportError("no such module")

    monkeypatch.setattr(RayGrid, "_collect", fail)
    with pytest.raises(ImportError):
        grid.await_background()
    monkeypatch.setattr(RayGrid, "_collect", collect)
    (tmp_path / "flag").touch()
    grid.finish()
    assert [reply.has_error() for reply in replies] == [False] * 3
    pool.ready()


def test_actors_have_the_priority_of_this_process(pool: ActorPool) -> None:
    assert {psutil.Process(pid).nice() for pid in pool.ready()} == {psutil.Process().nice()}


def test_an_actor_that_dies_costs_its_shard_only(pool: ActorPool) -> None:
    grid, notes = RayGrid(ready(pool, adding), CLIENTS, {}, 1), list[str]()
    grid.warn = notes.append
    undisturbed = rounds(InlineGrid(adding, CLIENTS, {}))
    assert rounds(grid, 1) == undisturbed[:1]
    victim = pool.ready()[0]
    os.kill(victim, signal.SIGKILL)
    assert [[outcome(r) for r in grid.send_and_receive(messages())]] == undisturbed[1:2]
    assert victim not in pool.ready()
    assert len(pool.busy) == 3
    assert len(notes) == 1
    assert notes[0].startswith("an actor died; 2 of 3 go on while it is replaced")


def test_all_actors_take_part(pool: ActorPool) -> None:
    grid = RayGrid(ready(pool, adding), 50, {}, 1)
    replies = [r for _ in range(5) for r in grid.send_and_receive(messages(range(4, 50)))]
    assert len(pids(replies)) == 3


def stuck() -> ClientApp:
    """Client 1 never answers."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            threading.Event().wait()
        return Message(RecordDict(), reply_to=message)

    return app


def deadly() -> ClientApp:
    """Client 1 takes its actor with it."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            os._exit(1)
        return Message(RecordDict(), reply_to=message)

    return app


def test_a_client_that_hangs_is_missing_and_its_actor_replaced(single: ActorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_grid, "ACTOR_START_SECONDS", 1.0)
    grid, notes = RayGrid(ready(single, stuck), CLIENTS, {}, 1), list[str]()
    grid.warn = notes.append
    assert [r.metadata.src_node_id for r in grid.send_and_receive(messages(range(1)))] == [1]
    assert [r.metadata.src_node_id for r in grid.send_and_receive(messages(range(3)), timeout=2)] == [1]
    # The next exchange waits for the actor, but not for ever; the message that was not served yet goes before its own.
    assert [r.metadata.src_node_id for r in grid.send_and_receive(messages(range(2, 4)), timeout=HANG)] == [3, 4]
    assert notes == [
        "2 messages had no reply in 2 s; a late reply can be pulled until its time to live ends",
        "an actor was not done in time and is replaced",
    ]


@pytest.mark.parametrize(("app", "timeout", "errors"), [pytest.param(stuck, 16.0, [], marks=pytest.mark.slow), (deadly, None, [2])])
def test_a_client_that_hangs_or_kills_costs_none_that_went_with_it(
    pool: ActorPool, app: Callable[[], ClientApp], timeout: float | None, errors: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "ACTOR_START_SECONDS", 1.0)
    monkeypatch.setattr(scheduler, "LEAST_CALL_SECONDS", 60.0)  # all shards that have been timed go together
    monkeypatch.setattr(scheduler, "MAX_LOSSES", 1)
    grid, notes = RayGrid(ready(pool, app), CLIENTS, {}, 1), list[str]()
    grid.warn = notes.append
    grid.send_and_receive(messages(range(2, CLIENTS)))
    replies = list(grid.send_and_receive(messages(), timeout=timeout))
    assert "an actor was not done in time with 3 shards" in notes[0] or "an actor died" in notes[0]
    assert [r.metadata.src_node_id for r in replies if not r.has_error()] == [1, *range(3, CLIENTS + 1)]
    assert [r.metadata.src_node_id for r in replies if r.has_error()] == errors
    grid.finish()


def various() -> ClientApp:
    """Clients that do what the message says."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        state, client = context.state, int(context.node_config["partition-id"])
        had = int(state["calls"]["n"]) if "calls" in state else 0
        match message.content["config"]["merge"]:
            case "count":
                state["calls"] = MetricRecord({"n": had + 1})
            case "wait":
                threading.Event().wait(0.5)
                state["calls"] = MetricRecord({"n": had + 1})
            case "forget":
                state.clear()
            case "hang":
                threading.Event().wait()
            case "die" if client == 3:
                os._exit(1)
            case "starve" if import_ray(private=True).get_runtime_context().get_assigned_resources().get("GPU", 1) < 0.5 and client == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return Message(RecordDict({"metrics": MetricRecord({"had": had})}), reply_to=message)

    return app


def ask(what: str, *clients: int, ttl: float | None = None) -> list[Message]:
    content = RecordDict({"config": ConfigRecord({"merge": what})})
    return [Message(content, dst_node_id=c + 1, message_type="train", ttl=ttl) for c in clients]


def pulled(grid: LocalGrid, ids: Iterable[str]) -> list[Message]:
    """The replies to all these messages, each pulled as long as it is not there."""
    open, replies = set(ids), list[Message]()
    while open:
        replies += grid.pull_messages(open)
        open -= {reply.metadata.reply_to_message_id for reply in replies}
    return replies


def had(replies: Iterable[Message]) -> list[object]:
    return [reply.error.code if reply.has_error() else reply.content["metrics"]["had"] for reply in replies]


def everywhere(pool: ActorPool, single: ActorPool) -> list[LocalGrid]:
    return [InlineGrid(various, CLIENTS, {}), RayGrid(ready(single, various), CLIENTS, {}), RayGrid(ready(pool, various), CLIENTS, {}, 1)]


def test_a_client_finds_what_its_last_message_left_even_among_those_sent_at_once(pool: ActorPool, single: ActorPool) -> None:
    for grid in everywhere(pool, single):
        assert had(grid.send_and_receive([*ask("count", 0, 1, 0), *ask("wait", 0), *ask("count", 1, 0)])) == [0, 0, 1, 2, 1, 3]
        assert had(grid.send_and_receive(ask("forget", 0, 1, 0))) == [4, 2, 0]
        assert had(grid.send_and_receive(ask("count", 0, 1))) == [0, 0]
        ids = [*grid.push_messages(ask("wait", 0)), *grid.push_messages(ask("count", 0))]
        replies = pulled(grid, ids)
        assert sorted(had(replies)) == [1, 2]
        assert len({reply.metadata.message_id for reply in replies}) == 2
        assert had(grid.send_and_receive(ask("count", 0))) == [3]


def test_clients_that_have_a_state_only_later_keep_it_as_well(pool: ActorPool, single: ActorPool) -> None:
    for grid in everywhere(pool, single):
        assert had(grid.send_and_receive(ask("nothing", *range(CLIENTS)))) == [0] * CLIENTS  # now none is expected to have one
        assert had(grid.send_and_receive(ask("count", *range(3)))) == [0] * 3
        assert had(grid.send_and_receive(ask("count", *range(CLIENTS)))) == [1] * 3 + [0] * (CLIENTS - 3)
        assert had(grid.send_and_receive(ask("nothing", *range(CLIENTS)))) == [2] * 3 + [1] * (CLIENTS - 3)


def test_a_message_has_its_time_to_live(pool: ActorPool) -> None:
    grid = RayGrid(ready(pool, various), CLIENTS, {}, 1)
    assert had(grid.send_and_receive(ask("forget", *range(CLIENTS)))) == [0] * CLIENTS
    assert had(grid.send_and_receive([*ask("count", 0), *ask("hang", 1, ttl=2.0)])) == [0, 3]
    assert had(grid.send_and_receive(ask("count", 0, 1))) == [1, 0]


@pytest.mark.slow
def test_messages_pushed_to_an_actor_that_others_kill_are_answered(single: ActorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MAX_LOSSES", 1)
    grid = RayGrid(ready(single, various), CLIENTS, {}, 1)
    replies = pulled(grid, grid.push_messages(ask("die", *range(CLIENTS))))
    assert {r.metadata.src_node_id: r.has_error() for r in replies} == {c + 1: c == 3 for c in range(CLIENTS)}


@pytest.mark.parametrize("timeout", [None, pytest.param(HANG, marks=pytest.mark.slow)])
def test_a_client_that_kills_its_actors_costs_no_other_of_its_shard(
    pool: ActorPool, timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MAX_LOSSES", 1)
    grid = RayGrid(ready(pool, various), CLIENTS, {}, 5)
    assert had(grid.send_and_receive(ask("die", *range(1, CLIENTS)), timeout=timeout)) == [0, 0, 4, 0, 0, 0, 0, 0]


@pytest.mark.slow
def test_fewer_actors_share_a_gpu_whose_memory_ran_out(pool: ActorPool) -> None:
    crowd = ActorPool(load, actors=0, gpus=0.33)
    crowd.supply(make=various)
    crowd.memory = None  # of a GPU that is Ray's invention
    for _ in range(3):
        crowd._start()
    grid, notes = RayGrid(crowd, CLIENTS, {}, 1), list[str]()
    grid.warn = notes.append
    assert had(grid.send_and_receive(ask("count", *range(CLIENTS)))) == [0] * CLIENTS
    assert had(grid.send_and_receive(ask("starve", *range(CLIENTS)))) == [1] * CLIENTS
    assert notes == ["a GPU's memory ran out; 1 actors with 0.66 of a GPU each go on"]
    assert len(crowd.ready()) == 1
    crowd.stop()


def broken() -> ClientApp:
    """An app that cannot be loaded."""
    raise ImportError("no such app")


def test_an_app_that_cannot_be_loaded_is_an_error_and_the_actors_stay(single: ActorPool) -> None:
    single.supply(make=broken)
    for _ in range(2):
        with pytest.raises(ImportError, match="no such app"):
            RayGrid(single, CLIENTS, {}).send_and_receive(messages())
    assert len(single.busy) == 1


def loaded_from(pipe: Path) -> ClientApp:
    """An app that is loaded once somebody writes into the pipe."""
    pipe.read_text()
    return adding()


def test_an_actor_gets_work_once_it_has_loaded_its_app(single: ActorPool, tmp_path: Path) -> None:
    import ray

    pids = ready(single, adding).ready()
    os.mkfifo(tmp_path / "pipe")
    single.supply(make=partial(loaded_from, tmp_path / "pipe"))
    assert (single.busy, single.free(), ray.wait(list(single.starting), timeout=0.2)[0]) == ({}, None, [])
    (tmp_path / "pipe").write_text("go on")
    assert single.ready() == pids
    assert single.free() is not None


@pytest.mark.parametrize("shard_size", [1, 2])
def test_messages_can_be_pushed_and_pulled(shard_size: int) -> None:
    grid = InlineGrid(adding, CLIENTS, {}, shard_size=shard_size)
    ids = list(grid.push_messages(messages(range(3))))
    assert [outcome(r)[0] for r in grid.pull_messages(ids[1:2])] == [2]  # type: ignore[index]
    assert [outcome(r)[0] for r in grid.pull_messages(ids[::2])] == [1, 3]  # type: ignore[index]
    assert grid.get_node_ids() == [node.node_id for node in grid.get_nodes()] == list(range(1, CLIENTS + 1))
    assert {node.status for node in grid.get_nodes()} == {"online"}


def test_a_reply_that_cannot_come_is_an_error_as_on_flowers_runtime() -> None:
    grid = InlineGrid(adding, CLIENTS, {})
    ids = grid.push_messages(messages(range(2)))
    grid.pull_messages(ids[:1])
    grid.send_and_receive(messages(range(1)))
    found = {r.metadata.reply_to_message_id: r for r in grid.pull_messages([*ids, *ids, "never sent", "2"])}
    assert {key: reply.has_error() for key, reply in found.items()} == {ids[0]: True, ids[1]: False, "never sent": True, "2": True}
    assert {found[key].error.code for key in (ids[0], "never sent", "2")} == {3}  # MESSAGE_UNAVAILABLE


def test_nothing_is_kept_of_an_exchange_whose_replies_are_merged() -> None:
    grid, sent = InlineGrid(adding, CLIENTS, {}, shard_size=3), messages(range(3))
    for message in sent:
        message.content["config"] = ConfigRecord({flower_private.MERGE_BY: "calls"})
    (merged,) = grid.send_and_receive(sent)
    assert merged.content["metrics"]["calls"] == 3
    pulled = grid.pull_messages([message.metadata.message_id for message in sent])
    assert [reply.error.code for reply in pulled] == [3, 3, 3]


def waiting() -> ClientApp:
    """Client 1 answers once somebody writes into the pipe that the run config names."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            Path(str(context.run_config["pipe"])).read_text()
        context.state["been"] = MetricRecord({"here": 1})
        return Message(RecordDict(), reply_to=message)

    return app


def test_pushed_messages_run_while_others_are_waited_for(single: ActorPool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    grid = RayGrid(ready(single, waiting), CLIENTS, {"pipe": str(tmp_path / "pipe")}, 1)
    ids = list(grid.push_messages(messages(range(3))))
    assert [r.metadata.src_node_id for r in grid.pull_messages(ids)] in ([], [1])
    (tmp_path / "pipe").write_text("go on")
    # The actor serves in order, so what was pushed is done when this one is.
    assert [r.metadata.src_node_id for r in grid.send_and_receive(messages(range(5, 6)))] == [6]
    assert {2, 3} <= {r.metadata.src_node_id for r in grid.pull_messages(ids) if not r.has_error()}
    assert grid.peak_memory()[0] > 10**7


def slow(now: list[float]) -> ClientApp:
    """A second passes on the clock `now` while client 1 is called first; every client counts its calls."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
        context.state["calls"] = MetricRecord({"n": calls})
        if context.node_config["partition-id"] == 1 and calls == 1:
            now[0] += 1
        return Message(RecordDict({"metrics": MetricRecord({"had": calls - 1})}), reply_to=message)

    return app


@pytest.mark.parametrize(
    ("ttl", "timeout", "first", "late", "second"),
    [
        (None, 0.5, [(1, 0), (3, 0)], 0, 1),  # late: its reply can be pulled, and its state counts
        (0.5, 0.5, [(1, 0), (3, 0)], 3, 0),  # its time to live is over with the exchange: as if it had not run
        (0.5, None, [(1, 0), (2, 3), (3, 0)], 3, 0),  # over before: an error in place of its reply
        (2.0, None, [(1, 0), (2, 0), (3, 0)], 3, 1),
    ],
)
def test_a_late_client_in_this_process_costs_no_other_its_time(
    ttl: float | None, timeout: float | None, first: list[object], late: int, second: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("fedsam.grid.inline.time", SimpleNamespace(monotonic=lambda: now[0]))
    grid = InlineGrid(lambda: slow(now), CLIENTS, {}, shard_size=3)
    sent = ask("", *range(3), ttl=ttl)
    replies = grid.send_and_receive(sent, timeout=timeout)
    assert list(zip([r.metadata.src_node_id for r in replies], had(replies), strict=True)) == first
    assert had(grid.pull_messages([sent[1].metadata.message_id])) == [late]
    assert had(grid.send_and_receive(ask("", 1))) == [second]


def test_a_late_reply_of_an_actor_can_be_pulled_and_its_state_counts(single: ActorPool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    grid, notes = RayGrid(ready(single, waiting), CLIENTS, {"pipe": str(tmp_path / "pipe")}, 1), list[str]()
    grid.warn = notes.append
    sent = messages(range(3))
    pid = single.ready()
    assert [r.metadata.src_node_id for r in grid.send_and_receive(sent, timeout=1)] == [1]
    assert list(grid.pull_messages([message.metadata.message_id for message in sent[1:]])) == []
    (tmp_path / "pipe").write_text("go on")
    assert sorted(r.metadata.src_node_id for r in pulled(grid, [message.metadata.message_id for message in sent[1:]])) == [2, 3]
    assert [grid.states.get(node) is not None for node in (1, 2, 4)] == [True, True, False]
    assert single.ready() == pid
    assert [note[:10] for note in notes] == ["2 messages"]


def exiting() -> ClientApp:
    """Client 1 wants to end its process."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            sys.exit(7)
        return Message(RecordDict(), reply_to=message)

    return app


def test_a_client_that_exits_is_one_that_failed(single: ActorPool) -> None:
    pid = ready(single, exiting).ready()
    for grid in (InlineGrid(exiting, CLIENTS, {}), RayGrid(single, CLIENTS, {})):
        replies = grid.send_and_receive(messages(range(3)))
        assert [r.error.reason.splitlines()[0] if r.has_error() else None for r in replies] == [None, "SystemExit: 7", None]
    assert single.ready() == pid


def counted_in(log: list[str]) -> ClientApp:
    """Notes what it is asked."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        log.append(f"{message.content['config']['merge']} {context.node_config['partition-id']}")
        return Message(RecordDict(), reply_to=message)

    return app


def test_what_is_pushed_and_not_pulled_runs_before_the_next_exchange_and_at_the_end() -> None:
    log = list[str]()
    grid = InlineGrid(lambda: counted_in(log), CLIENTS, {})
    ids = grid.push_messages(ask("pushed", 0, 1))
    grid.send_and_receive(ask("asked", 0))
    assert log == ["pushed 0", "pushed 1", "asked 0"]
    grid.push_messages(ask("pushed last", 2))
    assert len(grid.pull_messages(ids)) == 2
    grid.push_messages(ask("last of all", 3))
    grid.finish()
    assert log[3:] == ["pushed last 2", "last of all 3"]


def test_actors_finish_what_is_pushed_and_not_pulled(single: ActorPool) -> None:
    grid = RayGrid(ready(single, various), CLIENTS, {}, 1)
    grid.push_messages(ask("wait", 0, 1))
    grid.finish()
    assert [grid.states.get(node) is not None for node in (1, 2)] == [True, True]


def noting() -> ClientApp:
    """Clients that note what they are asked in the file that the run config names."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        with Path(str(context.run_config["file"])).open("a") as file:
            file.write(f"{message.content['config']['merge']} {context.node_config['partition-id']}\n")
        return Message(RecordDict(), reply_to=message)

    return app


@pytest.mark.parametrize("on_actor", [False, True])
def test_what_is_in_the_background_gives_way_and_is_answered_in_order(
    single: ActorPool, tmp_path: Path, request: pytest.FixtureRequest, on_actor: bool
) -> None:
    config, told = {"file": str(tmp_path / "log")}, list[object]()
    grid = RayGrid(ready(single, noting), CLIENTS, config) if on_actor else InlineGrid(noting, CLIENTS, config)
    grid.push_background(ask("first", 0, 1), lambda replies: told.append([reply.metadata.src_node_id for reply in replies]))
    grid.push_background(ask("second", 2), lambda replies: told.append("second"))
    grid.push_background([], lambda replies: told.append("third"))
    grid.send_and_receive(ask("asked", 3, 4))
    grid.await_background(2)
    assert told[0] == [1, 2]
    grid.await_background()
    assert told == [[1, 2], "second", "third"]
    asked = (
        ["first 0", "asked 3", "asked 4", "first 1", "second 2"] if on_actor else ["first 0", "first 1", "second 2", "asked 3", "asked 4"]
    )
    assert (tmp_path / "log").read_text().splitlines() == asked
    with pytest.raises(ZeroDivisionError):
        grid.push_background(ask("last", 5), lambda replies: 1 / 0)
        grid.await_background()
    assert len(grid.send_and_receive(ask("asked", 5))) == 1


def test_a_message_to_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="no node has id 10"):
        InlineGrid(adding, CLIENTS, {}).send_and_receive(messages(range(9, 10)))


def test_an_app_that_waits_for_more_nodes_is_told_that_none_will_come() -> None:
    grid, notes = InlineGrid(adding, CLIENTS, {}), list[str]()
    grid.warn = notes.append
    for _ in range(9):
        grid.get_node_ids()
    assert notes == [
        "the app has asked 5 times which nodes there are, and sent nothing yet: all 9 are there; "
        "if it waits for more, give their number (--num-supernodes)"
    ]
    grid, notes[:] = InlineGrid(adding, CLIENTS, {}), []
    grid.warn = notes.append
    grid.send_and_receive(messages(range(1)))
    for _ in range(9):
        grid.get_node_ids()
    assert not notes
