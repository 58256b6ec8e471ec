"""Progress of a Flower app: what its server sends, and the replies and failures as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from flwr.app import Message
from rich.console import Console

from fedsam.formatting import duration, literal, plural
from fedsam.grid.base import GridCallback

QUIET_SECONDS = 10.0  # without a line, after which one says what the app waits for
MAX_FAILURES = 5  # of one exchange that have a line each


class AppProgress(GridCallback):
    """Prints lines; a context manager that also says what an app that is silent for long waits for.

    Messages that are sent together belong to one exchange, until others are sent. Flower's strategies have the round as their group.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._lock, self._over = threading.Lock(), threading.Event()
        self._name = ""
        self._sent, self._failures = 0, 0
        self._waiting = set[str]()  # ids of the exchange's messages that have no reply
        self._since = self._last = clock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def say(self, text: str) -> None:
        """Print a line."""
        self._last = self._clock()
        self._console.print(literal(text), highlight=False, soft_wrap=True)

    def sent(self, messages: Sequence[Message]) -> None:
        """As `GridCallback.sent`."""
        with self._lock:
            metadata = messages[0].metadata
            self._name = f"round {metadata.group_id}, {metadata.message_type}" if metadata.group_id else metadata.message_type
            self._waiting = {message.metadata.message_id for message in messages}
            self._sent, self._failures, self._since = len(messages), 0, self._clock()

    def received(self, replies: Sequence[Message]) -> None:
        """As `GridCallback.received`; the line of an exchange comes with its last reply."""
        with self._lock:
            open = len(self._waiting)
            for reply in replies:
                self._waiting.discard(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    self._fail(reply)
            if open and not self._waiting:
                self.say(self._status())

    def remind(self) -> None:
        """Print what the app waits for if nothing was printed for long."""
        with self._lock:
            if (now := self._clock()) - self._last >= QUIET_SECONDS:
                self.say(self._status() if self._waiting else f"the server has sent nothing for {duration(now - self._since)}")

    def _status(self) -> str:
        failed = f", {plural(self._failures, 'failure')}" if self._failures else ""
        there = self._sent - len(self._waiting)
        return f"{self._name}: {there} of {plural(self._sent, 'message')} answered{failed}, {duration(self._clock() - self._since)}"

    def _fail(self, reply: Message) -> None:
        self._failures += 1
        if self._failures <= MAX_FAILURES:
            reason = (reply.error.reason or "no reason given").strip().splitlines()[0]
            self.say(f"{self._name}: node {reply.metadata.src_node_id} failed: {reason}")

    def _watch(self) -> None:
        while not self._over.wait(QUIET_SECONDS / 10):
            self.remind()
