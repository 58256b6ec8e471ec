"""What all grids share: where the clients of a Flower app run."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, groupby
from typing import Any

from flwr.app import DEFAULT_TTL, Error, Message, RecordDict
from flwr.serverapp import Grid

from fedsam.grid.client_states import ClientStates
from fedsam.messages import aggregation, flower_private
from fedsam.messages.flower_private import MESSAGE_UNAVAILABLE, NodeInfo, Run

MAX_NODE_QUERIES = 5  # before the first message; Flower's strategies ask once a second until there are enough


class GridCallback:
    """Base class of what watches a grid, whose methods do nothing."""

    def sent(self, messages: Sequence[Message]) -> None:
        """Messages were sent."""

    def received(self, replies: Sequence[Message]) -> None:
        """Replies have come, late ones and merged ones included."""


class LocalGrid(Grid):
    """A population of clients on this machine or cluster: node ids are client numbers plus one, every client is always there.

    Args:
        clients: Population.
        run_config: Every client's `context.run_config`.
        shard_size: Messages that are served together; default: a sixteenth of the messages of an exchange, at most 32. Where a strategy
            has replies merged, there is one for each shard.

    Attributes:
        warn: Gets warnings for the user, such as that an actor died; default: the log.
        callback: Is told of messages and replies as they come.
        states: The clients' states, by node.
    """

    states: ClientStates

    def __init__(self, clients: int, run_config: Mapping[str, Any], shard_size: int | None = None) -> None:
        self.clients = clients
        self.run_config = dict(run_config)
        self.warn: Callable[[str], None] = logging.getLogger("fedsam").warning
        self.callback = GridCallback()
        self._shard_size = shard_size
        self._client_sizes: Sequence[int] | None = None
        self._message_ids = count()
        self._node_queries = 0  # before the first message
        self._open: set[str] = set()  # ids of messages whose replies may still be pulled
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

    def get_node_ids(self) -> list[int]:
        """All node ids, ascending; an app that asks again and again before its first message is told that no more will come."""
        self._node_queries += 1
        if self._node_queries == MAX_NODE_QUERIES:
            self.warn(
                f"the app has asked {MAX_NODE_QUERIES} times which nodes there are, and sent nothing yet: all {self.clients} are there; "
                "if it waits for more, give their number (--num-supernodes)"
            )
        return list(range(1, self.clients + 1))

    def get_nodes(self) -> list[NodeInfo]:
        """All nodes, each online."""
        return [flower_private.online_node(node) for node in self.get_node_ids()]

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    def check_nodes(self, messages: Iterable[Message]) -> None:
        """Raise `ValueError` if a message is to a node that does not exist."""
        for message in messages:
            if not 1 <= (node := message.metadata.dst_node_id) <= self.clients:
                raise ValueError(f"no node has id {node}; nodes are 1 to {self.clients}")

    @abstractmethod
    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages without waiting; the ids to pull their replies by. A merged reply has the id of its shard's first message."""

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there for these ids, each only once; for an id of which none can come, or come again, an error message."""
        wanted = list(dict.fromkeys(message_ids))
        self._update()
        pulled = []
        for key in wanted:
            if key in self._replies:
                pulled += self._take_replies([key])
            elif key not in self._open:
                pulled.append(flower_private.message_unavailable(key, self._run.run_id))
        return pulled

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The replies, in the order of the messages; those of clients that are not done after `timeout` seconds are missing.

        The clock starts once an actor is up. A late client goes on, and its reply can be pulled, until its message's time to live (`ttl`)
        ends; if that is before the timeout, there is an error message in place of the reply.
        """
        shards = self._split(messages)
        return self._exchange(shards, math.inf if timeout is None else timeout) if shards else []

    @abstractmethod
    def push_background(self, messages: Iterable[Message], done: Callable[[Sequence[Message]], None]) -> None:
        """Send messages that leave their clients' states alone, for actors that have nothing else to do.

        Args:
            done: Is called with the replies in the order of the messages once all are there, and after that of what was pushed before. The
                grid's other methods call it; what it raises, they raise.
        """

    @abstractmethod
    def await_background(self, most: int = 0) -> None:
        """Wait until the replies to all but the `most` last of the calls of `push_background` are there."""

    @abstractmethod
    def finish(self) -> None:
        """Have the clients run what was pushed to them, and end those that are late: nothing is sent any more."""

    @abstractmethod
    def _update(self) -> None:
        """Keep the replies that are there."""

    @abstractmethod
    def _exchange(self, shards: Sequence[Sequence[Message]], timeout: float) -> list[Message]:
        """The replies to shards of messages that carry their ids, in order; errors for those whose time to live ends before the timeout."""

    @abstractmethod
    def peak_memory(self) -> tuple[int, int | None]:
        """Peak resident bytes of the largest process, peak GPU bytes of the largest actor, as last reported."""

    def _split(self, messages: Iterable[Message], shard_size: int | None = None) -> list[Sequence[Message]]:
        """The messages with their ids, in shards whose messages have the same time to live; of the grid's size by default."""
        sent = list(messages)
        self.check_nodes(sent)
        for message in sent:
            flower_private.set_message_id(message, id := str(next(self._message_ids)))
            self._open.add(id)
        if sent:
            self._node_queries = MAX_NODE_QUERIES
            self.callback.sent(sent)
        parts = [list(part) for _, part in groupby(sent, lambda message: message.metadata.ttl)]
        return [
            part for same in parts for shard in aggregation.shards(same, shard_size or self._shard_size) for part in _split_repeated(shard)
        ]

    def _keep_replies(self, replies: Iterable[Message]) -> None:
        """Keep replies until they are taken."""
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}

    def _take_replies(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that are there; they are kept no longer."""
        found = [key for key in message_ids if key in self._replies]
        self._open.difference_update(found)
        return [self._replies.pop(key) for key in found]

    def _forget(self, messages: Iterable[Message]) -> None:
        """Have no reply to these messages: it is not kept, or will not come."""
        for message in messages:
            self._open.discard(id := message.metadata.message_id)
            self._replies.pop(id, None)

    def _node_config(self, node: int) -> dict[str, Any]:
        return {"partition-id": node - 1, "num-partitions": self.clients}


def time_to_live(message: Message) -> float:
    """Seconds for which a message is valid: infinite where that is Flower's default of 12 hours, which is for networks."""
    return math.inf if message.metadata.ttl >= DEFAULT_TTL else message.metadata.ttl


def expired(message: Message) -> Message:
    """The error reply to a message whose time to live has ended."""
    return Message(Error(MESSAGE_UNAVAILABLE, "the message's time to live is over"), reply_to=message)


def _split_repeated(shard: Sequence[Message]) -> list[Sequence[Message]]:
    """The shard, cut where a node is repeated: its second message must find the state that the first one leaves."""
    parts: list[dict[int, Message]] = [{}]
    for message in shard:
        if (node := message.metadata.dst_node_id) in parts[-1]:
            parts.append({})
        parts[-1][node] = message
    return [list(part.values()) for part in parts]
