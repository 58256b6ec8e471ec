"""A grid for several threads: Flower's older strategies send each message from a thread of its own."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from threading import Lock

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsam.grid.base import LocalGrid
from fedsam.messages.flower_private import NodeInfo, Run


class SynchronizedGrid(Grid):
    """A grid that one thread uses at a time; what the others send meanwhile goes out together in the next exchange.

    An error that one thread's messages make is raised there alone.
    """

    def __init__(self, grid: LocalGrid) -> None:
        self._grid = grid
        self._exchange_lock, self._waiting_lock = Lock(), Lock()
        self._waiting: list[tuple[list[Message], Future[list[Message]]]] = []

    def set_run(self, run: Run) -> None:
        """As `Grid.set_run`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """As `Grid.run`."""
        return self._grid.run

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None) -> Message:
        """As `Grid.create_message`."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> list[int]:
        """As `LocalGrid.get_node_ids`."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> list[NodeInfo]:
        """As `LocalGrid.get_nodes`."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """As `Grid.push_messages`."""
        with self._exchange_lock:
            return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """As `Grid.pull_messages`."""
        with self._exchange_lock:
            return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """As `LocalGrid.send_and_receive`; the timeout does not count the time in which another thread uses the grid."""
        if timeout is not None:
            with self._exchange_lock:
                return self._grid.send_and_receive(messages, timeout=timeout)
        mine, sent = Future[list[Message]](), list(messages)
        self._grid.check_nodes(sent)
        with self._waiting_lock:
            self._waiting.append((sent, mine))
        with self._exchange_lock:
            if not mine.done():
                self._exchange()
        return mine.result()

    def _exchange(self) -> None:
        """Send what waits, and give each thread its replies, or all threads the error."""
        with self._waiting_lock:
            waiting, self._waiting = self._waiting, []
        try:
            replies = self._grid.send_and_receive([message for messages, _ in waiting for message in messages])
        except BaseException as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        for messages, future in waiting:
            ids = {message.metadata.message_id for message in messages}
            future.set_result([reply for reply in replies if reply.metadata.reply_to_message_id in ids])
