"""What all grids share: where the clients of a Flower app run."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from flwr.app import DEFAULT_TTL, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedsam.messages import flower_private
from fedsam.messages.aggregation import shards
from fedsam.messages.flower_private import REPLY_UNAVAILABLE, Run


class LocalGrid(Grid):
    """A population of clients on this machine or cluster: node ids are client numbers plus one, every client is always there.

    Args:
        clients: Population.
        run_config: Every client's `context.run_config`.
        shard_size: Messages that are served together; default: a sixteenth of the messages of an exchange, at most 32. Where a strategy
            has replies merged, there is one for each shard.

    Attributes:
        warn: Told what a person should know, such as that an actor died; default: a warning in the log.
    """

    def __init__(self, clients: int, run_config: Mapping[str, Any], shard_size: int | None = None) -> None:
        self.clients = clients
        self.run_config = dict(run_config)
        self.warn: Callable[[str], None] = logging.getLogger("fedsam").warning
        self._shard_size = shard_size
        self._loads: Sequence[int] | None = None
        self._numbers = count()
        self._replies: dict[str, Message] = {}
        self.set_run(flower_private.new_run())

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run
        flower_private.enter(run)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    @property
    def nodes_by_partition(self) -> Mapping[int, int]:
        """Node id of each client number."""
        return dict(enumerate(self.get_node_ids()))

    def set_client_sizes(self, loads: Sequence[int]) -> None:
        """Say how much work each client is, in any unit (examples): the longest shards are then dealt first. Changes no result."""
        self._loads = loads

    def get_node_ids(self) -> Iterable[int]:
        """All node ids, ascending."""
        return range(1, self.clients + 1)

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    @abstractmethod
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages off, at once; the ids to pull their replies by. A merged reply goes by the id of its shard's first message."""

    @abstractmethod
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there for these ids, each handed out once."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies, in the order of the messages; those of shards that are not done after `timeout` seconds are missing.

        The clock starts when there is somebody to do the work. Messages of a shorter life (`ttl`) have error replies after that.
        """
        dealt = self._numbered(messages)
        life = min((m.metadata.ttl for shard in dealt for m in shard), default=DEFAULT_TTL)
        if life < min(DEFAULT_TTL, math.inf if timeout is None else timeout):
            return _expired(dealt, self._exchange(dealt, life))
        return self._exchange(dealt, None if timeout == math.inf else timeout) if dealt else []

    @abstractmethod
    def _exchange(self, dealt: Sequence[Sequence[Message]], timeout: float | None) -> list[Message]:
        """The replies to shards of messages that carry their ids, in order."""

    @abstractmethod
    def peak_memory(self) -> tuple[int, int | None]:
        """Peak resident bytes of the largest process, peak GPU bytes of the largest actor, as last reported."""

    def _numbered(self, messages: Iterable[Message]) -> list[Sequence[Message]]:
        """The messages with their ids, in shards."""
        sent = list(messages)
        for message in sent:
            if not 1 <= message.metadata.dst_node_id <= self.clients:
                raise ValueError(f"no node has id {message.metadata.dst_node_id}; nodes are 1 to {self.clients}")
            flower_private.number(message, str(next(self._numbers)))
        return [part for shard in shards(sent, self._shard_size) for part in _apart(shard)]

    def _keep(self, replies: Iterable[Message]) -> None:
        """Keep replies until they are pulled."""
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}

    def _kept(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are kept for these ids; they are given away."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def _node_config(self, message: Message) -> dict[str, Any]:
        return {"partition-id": message.metadata.dst_node_id - 1, "num-partitions": self.clients}


def _apart(shard: Sequence[Message]) -> list[Sequence[Message]]:
    """The shard, cut where a node comes again: its second message must find the state that the first one leaves."""
    parts: list[dict[int, Message]] = [{}]
    for message in shard:
        if message.metadata.dst_node_id in parts[-1]:
            parts.append({})
        parts[-1][message.metadata.dst_node_id] = message
    return [list(part.values()) for part in parts]


def _expired(dealt: Sequence[Sequence[Message]], replies: Sequence[Message]) -> list[Message]:
    """The replies in order, with errors in place of those of shards that are late."""
    found = {reply.metadata.reply_to_message_id: reply for reply in replies}
    answers: list[Message] = []
    for shard in dealt:
        there = [found[message.metadata.message_id] for message in shard if message.metadata.message_id in found]
        reason = "the message's time to live is over"
        answers += there or [Message(Error(REPLY_UNAVAILABLE, reason), reply_to=message) for message in shard]
    return answers
