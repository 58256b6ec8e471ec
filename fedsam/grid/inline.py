"""Clients in this process, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid.actor import ClientTask, peak_memory, serve
from fedsam.grid.base import LocalGrid
from fedsam.messages.aggregation import ShardAccumulator


class InlineGrid(LocalGrid):
    """Runs clients in this process, one after another: a breakpoint in a client works. Pushed messages run when they are pulled.

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
        self.states: dict[int, RecordDict] = {}
        self._pushed: dict[str, Sequence[Message]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As `LocalGrid.push_messages`; the clients run when their replies are pulled."""
        ids = {message.metadata.message_id: shard for shard in self._split(messages) for message in shard}
        self._pushed |= ids
        return list(ids)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As `LocalGrid.pull_messages`; the clients of these messages run now."""
        wanted = list(message_ids)
        while due := next((self._pushed[key] for key in wanted if key in self._pushed), None):
            for message in due:
                del self._pushed[message.metadata.message_id]
            self._keep_replies(self._exchange([due], None))
        return self._take_replies(wanted)

    def _exchange(self, shards: Sequence[Sequence[Message]], timeout: float | None) -> list[Message]:
        replies: list[Message] = []
        deadline = None if timeout is None else time.monotonic() + timeout
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            for shard in shards:
                got, states = self._serve(shard)
                if deadline is not None and time.monotonic() > deadline:
                    break
                replies += got
                self.states |= states
        finally:
            torch.set_num_threads(before)
        return replies

    def _serve(self, shard: Sequence[Message]) -> tuple[list[Message], dict[int, RecordDict]]:
        accumulator, states = ShardAccumulator(shard[0]), {}
        for message in shard:
            node = message.metadata.dst_node_id
            task = ClientTask(message.metadata, {}, self._node_config(message), self.run_config)
            reply, state = serve(self._app, task, message.content, self.states.get(node, RecordDict()))
            if accumulator.add(reply) and (len(state) or node in self.states):
                states[node] = state
        return accumulator.replies(), states

    def peak_memory(self) -> tuple[int, int | None]:
        """Those of this process."""
        return peak_memory()
