"""`RayGrid`: a Flower app's clients on Ray actors."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from flwr.app import ArrayRecord, Error, Message

from fedsam.grid.actor import ClientTask, ShardResult
from fedsam.grid.base import LocalGrid
from fedsam.grid.pool import RESTARTS, ActorPool
from fedsam.messages.flower_private import REPLY_UNAVAILABLE

SHORT = 0.02  # seconds; a call of an actor costs a few thousandths
AMPLE = 60.0  # seconds in which a new actor is up for certain


@dataclass(eq=False)
class Shard:
    """Messages that are served together, and how far they are.

    Attributes:
        records: The messages' array records in the object store, by identity.
        losses: Actors that died over it.
        parts: Its messages one by one, if too many did.
        single: Whether replies stay single whatever its messages ask for, as those of a part, of which only a strategy knows the whole.
        seconds: That it took, once it is done.
    """

    messages: Sequence[Message]
    records: Mapping[int, Any]
    losses: int = 0
    parts: Sequence[Shard] = ()
    single: bool = False
    done: list[Message] | None = None
    seconds: float = 0.0

    @property
    def replies(self) -> list[Message] | None:
        """None until it is done."""
        if not self.parts:
            return self.done
        return None if any(part.done is None for part in self.parts) else [reply for part in self.parts for reply in part.done or ()]

    @property
    def kind(self) -> str:
        """Type of its messages."""
        return self.messages[0].metadata.message_type

    @property
    def nodes(self) -> set[int]:
        """Where its messages go."""
        return {message.metadata.dst_node_id for message in self.messages}


@dataclass(frozen=True)
class Call:
    """Shards at an actor, and the references to what comes of them: the clients' states, then `ShardResult`."""

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
        self._occupied: set[int] = set()  # nodes with a message at an actor
        self._slowest: dict[str, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As `LocalGrid.push_messages`: all shards are dealt at once, each to the actor with the fewest, once there are actors."""
        dealt = self._numbered(messages)
        while not self.pool.busy:
            self._collect(None)
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
                left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
                self._deal(left)
                if not self._collect(self._patience(left)) and not self._part():
                    break
        except BaseException:
            self._abandon(shards)
            raise
        for _ in range(self._abandon([shard for shard in shards if shard.replies is None])):
            self.warn("an actor was not done in time and is replaced")
        self._slowest[shards[0].kind] = max(SHORT if shard.done is None else shard.seconds for shard in shards)
        return [self._replies.pop(r.metadata.reply_to_message_id) for shard in shards for r in shard.replies or ()]

    def _queue(self, dealt: Sequence[Sequence[Message]]) -> list[Shard]:
        """The shards in their order; the longest are dealt first."""
        records = self._store([message for shard in dealt for message in shard])
        shards = [Shard(messages, records) for messages in dealt]
        self._waiting.extend(sorted(shards, key=self._load, reverse=True) if self._loads else shards)
        return shards

    def _load(self, shard: Shard) -> int:
        return sum((self._loads or ())[message.metadata.dst_node_id - 1] for message in shard.messages)

    def _deal(self, left: float = math.inf, *, ahead: bool = False) -> None:
        """Deal waiting shards to actors: those without work, or with `ahead` all shards to whoever has been dealt the least.

        Args:
            left: Seconds that are left for it.
        """
        if ahead and self._waiting:
            # Behind a shard that was lost nothing waits at its actor, so that it is clear whether that one was to blame.
            ahead = not any(shard.losses for shard in chain(self._waiting, *(call.shards for call in self._running.values())))
        while (actor := self.pool.free(most=None if ahead else 1)) is not None and (shards := self._next(left)):
            work = [[self._work(message, shard.records) for message in shard.messages] for shard in shards]
            references = actor.run.options(num_returns=1 + sum(map(len, work))).remote(work, self.pool.shared, shards[0].single)
            self._running[references[-1]] = Call(shards, actor, references)
            self._occupied.update(*(shard.nodes for shard in shards))
            self.pool.busy[actor] += 1

    def _next(self, left: float) -> list[Shard]:
        """The shards for a call, off the queue: the first, and others that go with it.

        No node has messages at two actors: the second must find the state that the first leaves. A shard that was lost goes alone: if it
        kills actors, it takes no other with it.
        """
        found: list[Shard] = []
        taken, most = set(self._occupied), 1
        for shard in self._waiting:
            if taken.isdisjoint(shard.nodes) and not (found and shard.losses):
                found.append(shard)
                most = self._many(found[0], left)
            if len(found) == most:
                break
            taken |= shard.nodes
        for shard in found:
            self._waiting.remove(shard)
        return found

    def _many(self, first: Shard, left: float) -> int:
        """How many shards make up a call: one, or an even share of those that wait where the last of their kind were short.

        Only with time left to run them one by one should a client hang.
        """
        slowest = SHORT if first.losses or left < AMPLE else self._slowest.get(first.kind, SHORT)
        return max(1, min(-(-len(self._waiting) // self.pool.size), int(SHORT / max(slowest, 1e-6))))

    def _ended(self, reference: Any) -> Call:
        """The call of a reference, which runs no more."""
        call = self._running.pop(reference)
        self._occupied.difference_update(*(shard.nodes for shard in call.shards))
        return call

    def _together(self) -> list[Call]:
        """The calls of several shards."""
        return [call for call in self._running.values() if len(call.shards) > 1]

    def _patience(self, left: float) -> float | None:
        """Seconds to wait: all that are left, or half of them while there are calls of several shards."""
        return None if left == math.inf else left / (2 if self._together() else 1)

    def _part(self) -> bool:
        """Have the shards of such calls run one by one, so that a client that hangs holds up no other shard; whether there were any."""
        late = self._together()
        for call in late:
            if call.references[-1] in self._running:  # else its actor had another of them, and is replaced
                self.warn(f"an actor was not done in time with {len(call.shards)} shards; it is replaced and they run one by one")
                self._replace(call.actor, TimeoutError("not done in time"))
        return bool(late)

    def _collect(self, timeout: float | None) -> bool:
        """Wait for one shard, or one new actor; whether any came in time. Raises `KeyboardInterrupt` once the pool was stopped."""
        import ray

        awaited = [*self._running, *self.pool.starting]
        ready = ray.wait(awaited, num_returns=1, timeout=timeout)[0] if awaited else []
        if self.pool.stopped:
            raise KeyboardInterrupt
        for reference in ready:
            if reference in self.pool.starting:
                self.pool.admit(reference)
            else:
                self._finish(reference)
        return bool(ready)

    def _finish(self, reference: Any) -> None:
        import ray

        call = self._running[reference]
        messages = [message for shard in call.shards for message in shard.messages]
        try:
            served: ShardResult = ray.get(reference)
            states = {
                message.metadata.dst_node_id: ray.put(ray.get(state)) if call.actor in self.pool.away else state
                for message, state, new in zip(messages, call.references[:-1], served.stateful, strict=True)
                if new
            }
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError) as error:
            left, size = len(self.pool.busy) - 1, self.pool.size
            self.warn(f"an actor died; {left} of {size} go on while it is replaced: {str(error).splitlines()[0]}")
            self._replace(call.actor, error)
            return
        except BaseException:
            self._ended(reference)
            self.pool.release(call.actor, None)
            raise
        if served.crowded:
            self._spread()
            return
        self._ended(reference)
        self.pool.release(call.actor, served.peak)
        self._states |= states
        for shard, replies, seconds in zip(call.shards, served.replies, served.seconds, strict=True):
            shard.seconds = seconds
            self._done(shard, replies)

    def _replace(self, actor: Any, error: Exception | None = None) -> None:
        """Start another actor; what this one had been dealt runs again, and only what it was at counts as lost to `error`.

        A shard that is lost repeatedly runs message by message: a client that kills its actor takes no other with it.
        """
        calls = [self._ended(reference) for reference, call in list(self._running.items()) if call.actor == actor]
        self.pool.replace(actor)
        self._again(calls)
        for shard in calls[0].shards if error else ():
            shard.losses += 1
            if shard.losses > RESTARTS:
                self._waiting.remove(shard)
                reason = f"it was lost with its actor, {shard.losses} times: {error}"
                self._done(shard, [Message(Error(REPLY_UNAVAILABLE, reason), reply_to=message) for message in shard.messages])
            elif shard.losses > RESTARTS // 2 and len(shard.messages) > 1:
                self._waiting.remove(shard)
                shard.parts = [Shard([message], shard.records, shard.losses, single=True) for message in shard.messages]
                self._waiting.extendleft(reversed(shard.parts))

    def _again(self, calls: Sequence[Call]) -> None:
        """Have shards run again, from the same inputs, in their order and before all others."""
        self._waiting.extendleft(shard for call in reversed(calls) for shard in reversed(call.shards))

    def _spread(self) -> None:
        """Go on with fewer actors on each GPU, whose memory ran out; what they were at runs again."""
        self._again([self._ended(reference) for reference in list(self._running)])
        self.pool.spread()
        self.warn(f"a GPU's memory ran out; {self.pool.size} actors with {self.pool.gpus:g} of a GPU each go on")

    def _done(self, shard: Shard, replies: list[Message]) -> None:
        shard.done = replies
        self._keep(replies)

    def _abandon(self, shards: Sequence[Shard]) -> int:
        """Forget shards. Actors at work on them are replaced, as what they do is of no use any more; how many."""
        shards = [part for shard in shards for part in (shard, *shard.parts)]
        late = {call.actor for call in self._running.values() if not set(shards).isdisjoint(call.shards)}
        for actor in late:
            self._replace(actor)
        self._waiting = deque(shard for shard in self._waiting if shard not in shards)
        return len(late)

    def _store(self, messages: Sequence[Message]) -> dict[int, Any]:
        """Each distinct array record once in the object store, by the record's identity."""
        import ray

        records = {id(r): r for m in messages for r in m.content.values() if isinstance(r, ArrayRecord)}
        return {key: ray.put(record) for key, record in records.items()}

    def _work(self, message: Message, shared: Mapping[int, Any]) -> ClientTask:
        records = {key: shared.get(id(record), record) for key, record in message.content.items()}
        state = self._states.get(message.metadata.dst_node_id)
        return ClientTask(message.metadata, records, self._node_config(message), self.run_config, state)

    def peak_memory(self) -> tuple[int, int | None]:
        """As `LocalGrid.peak_memory`."""
        return self.pool.peak_memory()
