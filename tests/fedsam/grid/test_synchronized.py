"""Threads that share a grid: each gets its own replies, and those who wait go together."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid.inline import InlineGrid
from fedsam.grid.synchronized import SynchronizedGrid
from tests.support.processes import HANG

CLIENTS = 6


class Slow(InlineGrid):
    """Holds the first exchange until all threads have sent, and remembers how many messages each exchange had."""

    def __init__(self) -> None:
        super().__init__(echo, CLIENTS, {})
        self.go, self.sizes = threading.Event(), []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        self.sizes.append(len(sent))
        assert self.go.wait(HANG)
        return super().send_and_receive(sent, timeout=timeout)


def echo() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    return app


def message(node: int) -> Message:
    return Message(RecordDict(), dst_node_id=node, message_type="train", group_id="1")


def test_each_thread_gets_its_own_replies_and_the_waiting_go_together() -> None:
    slow = Slow()
    grid = SynchronizedGrid(slow)
    with ThreadPoolExecutor(CLIENTS) as threads:
        asked = [threads.submit(lambda node=node: list(grid.send_and_receive([message(node)]))) for node in range(1, CLIENTS + 1)]
        while len(grid._waiting) < CLIENTS - 1:
            threading.Event().wait(0.01)
        slow.go.set()
        assert [[reply.metadata.src_node_id for reply in one.result()] for one in asked] == [[n] for n in range(1, CLIENTS + 1)]
    assert slow.sizes == [1, CLIENTS - 1]


def test_only_the_thread_whose_node_does_not_exist_hears_of_it() -> None:
    slow = Slow()
    grid = SynchronizedGrid(slow)
    with ThreadPoolExecutor(CLIENTS) as threads:
        asked = [threads.submit(lambda node=node: list(grid.send_and_receive([message(node)]))) for node in (1, 2, CLIENTS + 1, 3)]
        while len(grid._waiting) < 2:
            threading.Event().wait(0.01)
        with pytest.raises(ValueError, match="no node has id 7"):
            asked.pop(2).result(HANG)
        slow.go.set()
        assert [[reply.metadata.src_node_id for reply in one.result()] for one in asked] == [[1], [2], [3]]


def test_an_error_of_the_grid_is_raised_to_all_who_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = InlineGrid(echo, CLIENTS, {})
    grid = SynchronizedGrid(inner)
    monkeypatch.setattr(inner, "_serve", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        grid.send_and_receive([message(1)])
    monkeypatch.undo()
    assert [r.metadata.src_node_id for r in grid.send_and_receive([message(1)], timeout=HANG)] == [1]


def test_what_else_a_grid_can_do_goes_through() -> None:
    inner = InlineGrid(echo, CLIENTS, {})
    grid = SynchronizedGrid(inner)
    assert [(node.node_id, node.status) for node in grid.get_nodes()] == [(node, "online") for node in range(1, CLIENTS + 1)]
    assert grid.get_node_ids() == list(range(1, CLIENTS + 1))
    assert grid.create_message(RecordDict(), "train", 2, "1").metadata.dst_node_id == 2
    assert [r.metadata.src_node_id for r in grid.pull_messages(grid.push_messages([message(3)]))] == [3]
    grid.set_run(grid.run)
    assert grid.run is inner.run
