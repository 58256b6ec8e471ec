"""`RayGrid`: a Flower app's clients on Ray actors."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, Error, Message

from fedsam.grid.actor import ClientTask, ShardResult
from fedsam.grid.base import LocalGrid
from fedsam.grid.client_states import ClientStates
from fedsam.grid.pool import ActorPool
from fedsam.grid.scheduler import PendingCall, Scheduler, Shard
from fedsam.messages.flower_private import REPLY_UNAVAILABLE


class RayGrid(LocalGrid):
    """Assigns messages to Ray actors in shards of fixed size, in order; a free actor takes the next shard, or several if they are short.

    Results depend neither on the number of actors nor on which was fast. An array record shared by several messages is stored once.
    Client states stay in the object store, owned by this process, and reach an actor only when their client runs.

    Attributes:
        states: References to the clients' states.
    """

    def __init__(self, pool: ActorPool, clients: int, run_config: Mapping[str, Any], shard_size: int | None = None) -> None:
        super().__init__(clients, run_config, shard_size)
        self.pool = pool
        self.states = ClientStates(_copy)
        self._scheduler = Scheduler()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As `LocalGrid.push_messages`: all shards are assigned at once, each to the actor with the fewest, once there are actors."""
        shards = self._split(messages)
        self._await_actors()
        self._queue(shards)
        self._assign(ahead=True)
        return [message.metadata.message_id for shard in shards for message in shard]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As `LocalGrid.pull_messages`."""
        while self._collect(0.0):
            self._assign(ahead=True)
        return self._take_replies(message_ids)

    def peak_memory(self) -> tuple[int, int | None]:
        """As `LocalGrid.peak_memory`, over this process and its actors."""
        return self.pool.peak_memory()

    def _exchange(self, shards: Sequence[Sequence[Message]], timeout: float | None) -> list[Message]:
        queued = self._queue(shards)
        try:
            self._await_actors()
            deadline = None if timeout is None else time.monotonic() + timeout
            while any(shard.replies is None for shard in queued):
                left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
                self._assign(left)
                if not self._collect(self._scheduler.wait_seconds(left)) and not self._replace_late():
                    break
        except BaseException:
            self._abandon(queued)
            raise
        for _ in range(self._abandon([shard for shard in queued if shard.replies is None])):
            self.warn("an actor was not done in time and is replaced")
        self._scheduler.learn(queued)
        return self._take_replies(r.metadata.reply_to_message_id for shard in queued for r in shard.replies or ())

    def _await_actors(self) -> None:
        """Wait until an actor is up."""
        while not self.pool.busy:
            self._collect(None)

    def _queue(self, shards: Sequence[Sequence[Message]]) -> list[Shard]:
        """Queue shards, the longest first; gives them in their own order."""
        records = _store([message for shard in shards for message in shard])
        queued = [Shard(messages, records) for messages in shards]
        self._scheduler.add(queued, self._load if self._client_sizes else None)
        return queued

    def _load(self, shard: Shard) -> int:
        return sum((self._client_sizes or ())[message.metadata.dst_node_id - 1] for message in shard.messages)

    def _assign(self, seconds_left: float = math.inf, *, ahead: bool = False) -> None:
        """Assign waiting shards to actors: to those without work, or with `ahead` all shards, each to the actor with the fewest."""
        most = None if ahead and self._scheduler.may_assign_ahead() else 1
        while (actor := self.pool.free(most=most)) is not None and (shards := self._scheduler.take(self.pool.size, seconds_left)):
            tasks = [[self._task(message, shard.records) for message in shard.messages] for shard in shards]
            references = actor.run.options(num_returns=1 + sum(map(len, tasks))).remote(tasks, self.pool.shared, shards[0].single)
            self._scheduler.start(PendingCall(shards, actor, references))
            self.pool.busy[actor] += 1

    def _task(self, message: Message, stored: Mapping[int, Any]) -> ClientTask:
        records = {key: stored.get(id(record), record) for key, record in message.content.items()}
        state = self.states.get(message.metadata.dst_node_id)
        return ClientTask(message.metadata, records, self._node_config(message), self.run_config, state)

    def _collect(self, timeout: float | None) -> bool:
        """Wait for one call, or one new actor; whether any came in time. Raises `KeyboardInterrupt` once the pool was stopped."""
        import ray

        awaited = [*self._scheduler.calls, *self.pool.starting]
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
        """Take what came of a call. Raises what an actor raised outside its clients, as it cannot load the app."""
        import ray

        call = self._scheduler.calls[reference]
        nodes = [message.metadata.dst_node_id for shard in call.shards for message in shard.messages]
        try:
            result: ShardResult = ray.get(reference)
            if not result.crowded:
                self.states.update(nodes, call.results[:-1], result.stateful, away=call.actor in self.pool.away)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError) as error:
            left, size = len(self.pool.busy) - 1, self.pool.size
            self.warn(f"an actor died; {left} of {size} go on while it is replaced: {str(error).splitlines()[0]}")
            self._replace(call.actor, error)
            return
        except BaseException:
            self._scheduler.end(reference)
            self.pool.release(call.actor, None)
            raise
        if result.crowded:
            self._spread()
            return
        self._scheduler.finish(reference, result.replies, result.seconds)
        self.pool.release(call.actor, result.peak)
        for shard in call.shards:
            self._keep_replies(shard.done or ())

    def _replace(self, actor: Any, error: Exception) -> None:
        """Start another actor in the place of one that was lost; shards that were lost too often have error replies."""
        given_up = self._scheduler.lose(actor)
        self.pool.replace(actor)
        for shard in given_up:
            reason = f"it was lost with its actor, {shard.losses} times: {error}"
            shard.done = [Message(Error(REPLY_UNAVAILABLE, reason), reply_to=message) for message in shard.messages]
            self._keep_replies(shard.done)

    def _replace_late(self) -> bool:
        """Replace actors that hold up several shards, which then run one by one; whether there were any."""
        late = self._scheduler.late()
        for call in late:
            self.warn(f"an actor was not done in time with {len(call.shards)} shards; it is replaced and they run one by one")
            self._replace(call.actor, TimeoutError("not done in time"))
        return bool(late)

    def _spread(self) -> None:
        """Go on with fewer actors on each GPU, whose memory ran out; what they were at runs again."""
        self._scheduler.restart()
        self.pool.spread()
        self.warn(f"a GPU's memory ran out; {self.pool.size} actors with {self.pool.gpus:g} of a GPU each go on")

    def _abandon(self, shards: Sequence[Shard]) -> int:
        """Forget shards, and replace the actors at work on them; how many."""
        late = self._scheduler.abandon(shards)
        for actor in late:
            self.pool.replace(actor)
        return len(late)


def _store(messages: Sequence[Message]) -> dict[int, Any]:
    """Each distinct array record once in the object store, by the record's identity."""
    import ray

    records = {id(r): r for m in messages for r in m.content.values() if isinstance(r, ArrayRecord)}
    return {key: ray.put(record) for key, record in records.items()}


def _copy(state: Any) -> Any:
    """A copy of an object of another machine in this one's object store."""
    import ray

    return ray.put(ray.get(state))
