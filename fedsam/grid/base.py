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

from fedsam.messages import aggregation, flower_private
from fedsam.messages.flower_private import REPLY_UNAVAILABLE, Run


class LocalGrid(Grid):
    """A population of clients on this machine or cluster: node ids are client numbers plus one, every client is always there.

    Args:
        clients: Population.
        run_config: Every client's `context.run_config`.
        shard_size: Messages that are served together; default: a sixteenth of the messages of an exchange, at most 32. Where a strategy
            has replies merged, there is one for each shard.

    Attributes:
        warn: Gets warnings for the user, such as that an actor died; default: the log.
    """

    def __init__(self, clients: int, run_config: Mapping[str, Any], shard_size: int | None = None) -> None:
        self.clients = clients
        self.run_config = dict(run_config)
        self.warn: Callable[[str], None] = logging.getLogger("fedsam").warning
        self._shard_size = shard_size
        self._client_sizes: Sequence[int] | None = None
        self._message_ids = count()
        self._replies: dict[str, Message] = {}
        self.set_run(flower_private.new_run())

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run
        flower_private.set_current_run(run)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    @property
    def nodes_by_partition(self) -> Mapping[int, int]:
        """Node id of each client number."""
        return dict(enumerate(self.get_node_ids()))

    def set_client_sizes(self, sizes: Sequence[int]) -> None:
        """Set the amount of work of each client, in any unit (examples): the longest shards then start first. Changes no result."""
        self._client_sizes = sizes

    def get_node_ids(self) -> Iterable[int]:
        """All node ids, ascending."""
        return range(1, self.clients + 1)

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    @abstractmethod
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages without waiting; the ids to pull their replies by. A merged reply has the id of its shard's first message."""

    @abstractmethod
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there for these ids, each only once."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies, in the order of the messages; those of shards that are not done after `timeout` seconds are missing.

        The clock starts once an actor is up. Messages whose time to live (`ttl`) ends first have error replies after it.
        """
        shards = self._split(messages)
        ttl = min((m.metadata.ttl for shard in shards for m in shard), default=DEFAULT_TTL)
        if ttl < min(DEFAULT_TTL, math.inf if timeout is None else timeout):
            return _with_expired(shards, self._exchange(shards, ttl))
        return self._exchange(shards, None if timeout == math.inf else timeout) if shards else []

    @abstractmethod
    def _exchange(self, shards: Sequence[Sequence[Message]], timeout: float | None) -> list[Message]:
        """The replies to shards of messages that carry their ids, in order."""

    @abstractmethod
    def peak_memory(self) -> tuple[int, int | None]:
        """Peak resident bytes of the largest process, peak GPU bytes of the largest actor, as last reported."""

    def _split(self, messages: Iterable[Message]) -> list[Sequence[Message]]:
        """The messages with their ids, in shards."""
        sent = list(messages)
        for message in sent:
            if not 1 <= message.metadata.dst_node_id <= self.clients:
                raise ValueError(f"no node has id {message.metadata.dst_node_id}; nodes are 1 to {self.clients}")
            flower_private.set_message_id(message, str(next(self._message_ids)))
        return [part for shard in aggregation.shards(sent, self._shard_size) for part in _split_repeated(shard)]

    def _keep_replies(self, replies: Iterable[Message]) -> None:
        """Keep replies until they are taken."""
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}

    def _take_replies(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that are there; they are kept no longer."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def _node_config(self, message: Message) -> dict[str, Any]:
        return {"partition-id": message.metadata.dst_node_id - 1, "num-partitions": self.clients}


def _split_repeated(shard: Sequence[Message]) -> list[Sequence[Message]]:
    """The shard, cut where a node is repeated: its second message must find the state that the first one leaves."""
    parts: list[dict[int, Message]] = [{}]
    for message in shard:
        if message.metadata.dst_node_id in parts[-1]:
            parts.append({})
        parts[-1][message.metadata.dst_node_id] = message
    return [list(part.values()) for part in parts]


def _with_expired(shards: Sequence[Sequence[Message]], replies: Sequence[Message]) -> list[Message]:
    """The replies in order, with errors in place of those of shards that are late."""
    found = {reply.metadata.reply_to_message_id: reply for reply in replies}
    complete: list[Message] = []
    for shard in shards:
        there = [found[message.metadata.message_id] for message in shard if message.metadata.message_id in found]
        reason = "the message's time to live is over"
        complete += there or [Message(Error(REPLY_UNAVAILABLE, reason), reply_to=message) for message in shard]
    return complete
