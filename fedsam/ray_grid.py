"""`RayGrid`: a Flower app's clients on Ray actors."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, Error, Message

from fedsam.actor import Work
from fedsam.flower import REPLY_UNAVAILABLE
from fedsam.grid import LocalGrid
from fedsam.pool import RESTARTS, ActorPool


@dataclass(eq=False)
class Shard:
    """Messages that are served together, and how far they are.

    Attributes:
        records: The messages' array records in the object store, by identity.
        losses: Actors that died over it.
        replies: None until it is done.
    """

    messages: Sequence[Message]
    records: Mapping[int, Any]
    losses: int = 0
    replies: list[Message] | None = None


@dataclass(frozen=True)
class Running:
    """A shard at an actor, and the references to what comes of it: the clients' states, then the replies."""

    shard: Shard
    actor: Any
    references: list[Any] = field(repr=False)


class RayGrid(LocalGrid):
    """Deals messages to Ray actors in shards of fixed size, in order; a free actor takes the next shard.

    Results depend neither on the number of actors nor on which was fast. An array record shared by several messages is stored once.
    Client states stay in the object store, owned by this process, and reach an actor only when their client runs. Those from other
    machines are copied to this one, so that no machine's loss loses any.
    """

    def __init__(self, pool: ActorPool, clients: int, run_config: Mapping[str, Any], shard_size: int | None = None) -> None:
        super().__init__(clients, run_config, shard_size)
        self.pool = pool
        self._states: dict[int, Any] = {}
        self._waiting: deque[Shard] = deque()
        self._running: dict[Any, Running] = {}

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
                if not self._collect(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    break
        except BaseException:
            self._abandon(shards)
            raise
        for _ in range(self._abandon([shard for shard in shards if shard.replies is None])):
            self.note("an actor was not done in time and is replaced")
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
        """Deal waiting shards to actors: those without one, or with `ahead` all shards to whoever has the fewest."""
        while self._waiting and (actor := self.pool.free(most=None if ahead else 1)) is not None:
            shard = self._waiting.popleft()
            work = [self._work(message, shard.records) for message in shard.messages]
            references = actor.run.options(num_returns=1 + len(work)).remote(work)
            self._running[references[-1]] = Running(shard, actor, references)
            self.pool.busy[actor] += 1

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

    def _finish(self, run: Running) -> None:
        import ray

        shard = run.shard
        try:
            replies, stateful, peak = ray.get(run.references[-1])
            states = {
                message.metadata.dst_node_id: ray.put(ray.get(reference)) if run.actor in self.pool.away else reference
                for message, reference, new in zip(shard.messages, run.references[:-1], stateful, strict=True)
                if new
            }
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError) as error:
            if self.pool.replace(run.actor):
                left, size = len(self.pool.busy), len(self.pool.busy) + len(self.pool.starting)
                self.note(f"an actor died; {left} of {size} go on while it is replaced: {str(error).splitlines()[0]}")
            self._again(shard, error)
            return
        except BaseException:
            self.pool.release(run.actor, None)
            raise
        self.pool.release(run.actor, peak)
        self._states |= states
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
        late = {run.actor for run in self._running.values() if run.shard in shards}
        for reference, run in list(self._running.items()):
            if run.actor in late:
                del self._running[reference]
                if run.shard not in shards:
                    self._waiting.append(run.shard)
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
