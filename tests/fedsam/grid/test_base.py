"""Grids with toy apps: order, state, errors, dead actors."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid import ray_grid, scheduler
from fedsam.grid.base import LocalGrid
from fedsam.grid.inline import InlineGrid
from fedsam.grid.pool import ActorPool
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.session import import_ray
from fedsam.messages import flower_private
from tests.support.processes import HANG
from tests.support.shared_ray import load
from tests.support.toy_grid import CLIENTS, adding, messages, outcome, pids, ready, rounds


@pytest.mark.parametrize("shard_size", [None, 1, 4, 100])
def test_every_grid_gives_the_same_replies_in_order(pool: ActorPool, shard_size: int | None) -> None:
    inline = rounds(InlineGrid(adding, CLIENTS, {}))
    assert inline[0][4] == (5, [4.0, 5.0, 6.0], 1)
    assert inline[2][4] == (5, [4.0, 5.0, 6.0], 3)
    assert inline[1][3] == (2, "ValueError: tired")
    assert rounds(RayGrid(ready(pool, adding), CLIENTS, {}, shard_size)) == inline


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
