"""Clients in this process, one after another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid.base import LocalGrid, expired, time_to_live
from fedsam.grid.client_states import ClientStates
from fedsam.grid.process import peak_memory, torch_threads
from fedsam.grid.serving import ClientTask, ShardServer, serve
from fedsam.messages.aggregation import ShardAccumulator
from fedsam.seeds import kept_python_generator


class InlineGrid(LocalGrid):
    """Runs clients in this process, one after another: a breakpoint in a client works.

    A time-out is that of each client by itself, as if all ran at once.

    Args:
        threads: Torch threads while clients run; an actor with as many computes the same bits.

    Attributes:
        states: The clients' states, by node.
    """

    def __init__(
        self,
        load: Callable[[], ClientApp],
        clients: int,
        run_config: Mapping[str, Any],
        threads: int = 1,
        shard_size: int | None = None,
    ) -> None:
        super().__init__(clients, run_config, shard_size)
        self._app, self._threads = load(), threads
        self.states = ClientStates()
        self._pushed: list[Sequence[Message]] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """As `LocalGrid.push_messages`; the clients run before the next exchange, when a reply is pulled, or at the end."""
        shards = self._split(messages)
        self._pushed += shards
        return [message.metadata.message_id for shard in shards for message in shard]

    def push_background(self, messages: Iterable[Message], done: Callable[[Sequence[Message]], None]) -> None:
        """As `LocalGrid.push_background`; all is done at once."""
        done(self.send_and_receive(messages))

    def await_background(self, most: int = 0) -> None:
        """There is nothing to wait for."""

    def finish(self) -> None:
        """As `LocalGrid.finish`."""
        self._update()

    def _update(self) -> None:
        pushed, self._pushed = self._pushed, []
        with torch_threads(self._threads):
            for shard in pushed:
                self._keep_replies(self._serve(shard, math.inf))

    def _exchange(self, shards: Sequence[Sequence[Message]], timeout: float) -> list[Message]:
        self._update()
        with torch_threads(self._threads):
            replies = [reply for shard in shards for reply in self._serve(shard, timeout)]
        ids = {message.metadata.message_id for shard in shards for message in shard}
        self._open -= ids - self._replies.keys()
        return replies

    def _serve(self, shard: Sequence[Message], timeout: float) -> list[Message]:
        """The replies of clients that were done within `timeout` seconds, each by a clock of its own; late ones are kept to be pulled."""
        server = ShardServer(self._app, shard[0])
        if server.direct and timeout == time_to_live(shard[0]) == math.inf:
            with kept_python_generator():  # direct clients seed it
                for message in shard:
                    usable, state = server.serve(self._task(message), message.content, self._state(message))
                    self._set_state(message, state, usable=usable)
            self.callback.received(replies := server.replies())
            return replies
        accumulator, replies = None, list[Message]()
        for message in shard:
            start = time.monotonic()
            reply, state = self._call(message)
            seconds = time.monotonic() - start
            if seconds > (ttl := time_to_live(message)):
                self._forget([message])
                reply = expired(message)
                replies += [reply] if ttl < timeout else []
            elif seconds > timeout:
                self._set_state(message, state, usable=not reply.has_error())
                self._keep_replies([reply])
            else:
                accumulator = accumulator or ShardAccumulator(message)
                self._set_state(message, state, usable=accumulator.add(reply))
            self.callback.received([reply])
        order = [message.metadata.message_id for message in shard]
        replies += accumulator.replies() if accumulator else []
        return sorted(replies, key=lambda reply: order.index(reply.metadata.reply_to_message_id))

    def _call(self, message: Message) -> tuple[Message, RecordDict]:
        """A client's reply and its state afterwards."""
        return serve(self._app, self._task(message), message.content, self._state(message))

    def _task(self, message: Message) -> ClientTask:
        return ClientTask(message.metadata, {}, self._node_config(message.metadata.dst_node_id), self.run_config)

    def _state(self, message: Message) -> RecordDict:
        found: RecordDict = self.states.get(message.metadata.dst_node_id, RecordDict())
        return found

    def _set_state(self, message: Message, state: RecordDict, *, usable: bool) -> None:
        node = message.metadata.dst_node_id
        if usable and (len(state) or node in self.states):
            self.states.update([node], [state], [True])

    def peak_memory(self) -> tuple[int, int | None]:
        """Those of this process."""
        return peak_memory()
