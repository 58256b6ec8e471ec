"""`RayGrid`: a Flower app's clients on Ray actors."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, Error, Message

from fedsam.actor import Served, Work
from fedsam.flower import REPLY_UNAVAILABLE
from fedsam.grid import LocalGrid
from fedsam.pool import RESTARTS, ActorPool

SHORT = 0.02  # seconds; a call of an actor costs a few thousandths


@dataclass(eq=False)
class Shard:
    """Messages that are served together, and how far they are.

    Attributes:
        records: The messages' array records in the object store, by identity.
        losses: Actors that died over it.
        replies: None until it is done.
        seconds: That it took, once it is done.
    """

    messages: Sequence[Message]
    records: Mapping[int, Any]
    losses: int = 0
    replies: list[Message] | None = None
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """Type of its messages."""
        return self.messages[0].metadata.message_type


@dataclass(frozen=True)
class Call:
    """Shards at an actor, and the references to what comes of them: the clients' states, then `Served`."""

    shards: Sequence[Shard]
    actor: Any
    references: list[Any] = field(repr=False)


class RayGrid(LocalGrid):
    """Deals messages to Ray actors in shards of fixed size, in order; a free actor takes the next shard, or several if they are short.

    Results depend neither on the number of actors nor on which was fast. An array record shared by several messages is stored once.
    Client states stay in the object store, owned by this process, and reach an actor only when their client runs. Those from other
    machines are copied to this one, so that no machine's loss loses any.
    """

    def __init__(self, pool: ActorPool, clients: int, run_config: Mapping[str, Any], shard_size: int | None = None) -> None:
        super().__init__(clients, run_config, shard_size)
        self.pool = pool
        self._states: dict[int, Any] = {}
        self._waiting: deque[Shard] = deque()
        self._running: dict[Any, Call] = {}
        self._slowest: dict[str, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As `LocalGrid.push_messages`: all shards are dealt at once, each to the actor with the fewest, once there are actors."""
        dealt = self._numbered(messages)
        if not self.pool.busy:
            self.pool.ready()
        self._queue(dealt)
        self._deal(ahead=True)
        return [message.metadata.message_id for shard in dealt for message in shard]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As `LocalGrid.pull_messages`."""
        while self._collect(0.0):
            self._deal(ahead=True)
        return self._kept(message_ids)

    def _exchange(self, dealt: Sequence[Sequence[Message]], timeout: float | None) -> list[Message]:
        shards = self._queue(dealt)
        try:
            while not self.pool.busy:
                self._collect(None)
            deadline = None if timeout is None else time.monotonic() + timeout
            while any(shard.replies is None for shard in shards):
                self._deal()
                if not self._collect(self._patience(deadline)) and not self._part():
                    break
        except BaseException:
            self._abandon(shards)
            raise
        for _ in range(self._abandon([shard for shard in shards if shard.replies is None])):
            self.note("an actor was not done in time and is replaced")
        self._slowest[shards[0].kind] = max(SHORT if shard.replies is None else shard.seconds for shard in shards)
        return [self._replies.pop(r.metadata.reply_to_message_id) for shard in shards for r in shard.replies or ()]

    def _queue(self, dealt: Sequence[Sequence[Message]]) -> list[Shard]:
        """The shards in their order; the longest are dealt first."""
        records = self._store([message for shard in dealt for message in shard])
        shards = [Shard(messages, records) for messages in dealt]
        self._waiting.extend(sorted(shards, key=self._load, reverse=True) if self._loads else shards)
        return shards

    def _load(self, shard: Shard) -> int:
        loads = self._loads or ()
        return sum(loads[message.metadata.dst_node_id - 1] for message in shard.messages)

    def _deal(self, *, ahead: bool = False) -> None:
        """Deal waiting shards to actors: those without work, or with `ahead` all shards to whoever has been dealt the least."""
        while self._waiting and (actor := self.pool.free(most=None if ahead else 1)) is not None:
            shards = [self._waiting.popleft() for _ in range(self._many())]
            work = [[self._work(message, shard.records) for message in shard.messages] for shard in shards]
            references = actor.run.options(num_returns=1 + sum(map(len, work))).remote(work)
            self._running[references[-1]] = Call(shards, actor, references)
            self.pool.busy[actor] += 1

    def _together(self) -> list[Call]:
        """The calls of several shards."""
        return [call for call in self._running.values() if len(call.shards) > 1]

    def _patience(self, deadline: float | None) -> float | None:
        """Seconds to wait: until the deadline, or half as long while there are calls of several shards."""
        if deadline is None:
            return None
        return max(0.0, deadline - time.monotonic()) / (2 if self._together() else 1)

    def _part(self) -> bool:
        """Have the shards of such calls run one by one, so that a client that hangs holds up no other shard; whether there were any."""
        late = self._together()
        for call in late:
            del self._running[call.references[-1]]
            if self.pool.replace(call.actor):
                self.note(f"an actor was not done in time with {len(call.shards)} shards; it is replaced and they run one by one")
            for shard in call.shards:
                self._again(shard, TimeoutError("not done in time"))
        return bool(late)

    def _many(self) -> int:
        """How many shards make up a call: one, or an even share of those that wait where the last of their kind were short.

        A shard that was lost goes alone: if it kills actors, it takes no other with it.
        """
        first = self._waiting[0]
        slowest = SHORT if first.losses else self._slowest.get(first.kind, SHORT)
        return max(1, min(-(-len(self._waiting) // self.pool.size), int(SHORT / max(slowest, 1e-6))))

    def _collect(self, timeout: float | None) -> bool:
        """Wait for one shard, or one new actor; whether any came in time."""
        import ray

        awaited = [*self._running, *self.pool.starting]
        ready = ray.wait(awaited, num_returns=1, timeout=timeout)[0] if awaited else []
        for reference in ready:
            if reference in self.pool.starting:
                self.pool.admit(reference)
            else:
                self._finish(self._running.pop(reference))
        return bool(ready)

    def _finish(self, call: Call) -> None:
        import ray

        messages = [message for shard in call.shards for message in shard.messages]
        try:
            served: Served = ray.get(call.references[-1])
            states = {
                message.metadata.dst_node_id: ray.put(ray.get(reference)) if call.actor in self.pool.away else reference
                for message, reference, new in zip(messages, call.references[:-1], served.stateful, strict=True)
                if new
            }
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError) as error:
            if self.pool.replace(call.actor):
                left, size = len(self.pool.busy), self.pool.size
                self.note(f"an actor died; {left} of {size} go on while it is replaced: {str(error).splitlines()[0]}")
            for shard in call.shards:
                self._again(shard, error)
            return
        except BaseException:
            self.pool.release(call.actor, None)
            raise
        self.pool.release(call.actor, served.peak)
        self._states |= states
        for shard, replies, shard.seconds in zip(call.shards, served.replies, served.seconds, strict=True):
            self._done(shard, replies)

    def _again(self, shard: Shard, error: Exception) -> None:
        """Have a lost shard run again, from the same inputs, but not for ever."""
        shard.losses += 1
        if shard.losses <= RESTARTS:
            self._waiting.appendleft(shard)
            return
        reason = f"it was lost with its actor, {shard.losses} times: {error}"
        self._done(shard, [Message(Error(REPLY_UNAVAILABLE, reason), reply_to=message) for message in shard.messages])

    def _done(self, shard: Shard, replies: list[Message]) -> None:
        shard.replies = replies
        self._keep(replies)

    def _abandon(self, shards: Sequence[Shard]) -> int:
        """Forget shards. Actors at work on them are replaced, as what they do is of no use any more; how many.

        What else these were dealt is dealt again.
        """
        self._waiting = deque(shard for shard in self._waiting if shard not in shards)
        late = {call.actor for call in self._running.values() if not set(shards).isdisjoint(call.shards)}
        for reference, call in list(self._running.items()):
            if call.actor in late:
                del self._running[reference]
                self._waiting.extend(shard for shard in call.shards if shard not in shards)
        return sum(self.pool.replace(actor) for actor in late)

    def _store(self, messages: Sequence[Message]) -> dict[int, Any]:
        """Each distinct array record once in the object store, by the record's identity."""
        import ray

        records = {id(r): r for m in messages for r in m.content.values() if isinstance(r, ArrayRecord)}
        return {key: ray.put(record) for key, record in records.items()}

    def _work(self, message: Message, shared: Mapping[int, Any]) -> Work:
        records = {key: shared.get(id(record), record) for key, record in message.content.items()}
        state = self._states.get(message.metadata.dst_node_id)
        return Work(message.metadata, records, self._node_config(message), self.run_config, state)

    def peak_memory(self) -> tuple[int, int | None]:
        """As `LocalGrid.peak_memory`."""
        return self.pool.peak_memory()
