"""When the process that sends the messages serves clients itself: before an actor is up, and where actors would take longer."""

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid import scheduler
from fedsam.grid.inline import InlineGrid
from fedsam.grid.pool import ActorPool
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.serving import LocalServer
from tests.support.processes import HANG
from tests.support.toy_grid import CLIENTS, adding, messages, outcome, pids, ready, rounds


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
