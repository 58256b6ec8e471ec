"""`RayGrid`: a Flower app's clients on Ray actors."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Error, Message, MessageType

from fedsam.formatting import plural
from fedsam.grid import object_store
from fedsam.grid.base import LocalGrid, expired, time_to_live
from fedsam.grid.client_states import ClientStates
from fedsam.grid.pool import ActorPool
from fedsam.grid.scheduler import ACTOR_START_SECONDS, PendingCall, Scheduler, Shard
from fedsam.grid.serving import ClientTask, LocalServer, ShardResult
from fedsam.messages.flower_private import REPLY_UNAVAILABLE


class RayGrid(LocalGrid):
    """Assigns messages to Ray actors in shards of fixed size, in order; a free actor takes the next shard, or several if they are short.

    Results depend neither on the number of actors nor on which was fast. An array record shared by several messages is stored once.
    Client states stay in the object store, or in this process if Ray was not up, and reach an actor only when their client runs.

    Attributes:
        states: References to the clients' states.
        local_server: Serves clients in this process before an actor is up, and where calls would take longer; None: actors alone do.
    """

    def __init__(self, pool: ActorPool, clients: int, run_config: Mapping[str, Any], shard_size: int | None = None) -> None:
        super().__init__(clients, run_config, shard_size)
        self.pool = pool
        self.local_server: LocalServer | None = None
        self.states = ClientStates(object_store.copy, object_store.load, pool.put)
        self._scheduler = Scheduler()
        self._stateful: dict[str, bool] = {}  # whether a message of a type has left a client a state
        self._sent: list[Shard] = []  # whose replies may still be asked for
        self._background: deque[tuple[Sequence[Shard], Callable[[Sequence[Message]], None]]] = deque()  # with what their replies go to

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """As `LocalGrid.push_messages`: all shards are assigned at once, each to the actor with the fewest, once there are actors."""
        shards = self._split(messages)
        while not self.pool.busy:
            self._collect(math.inf)
        self._queue(shards, time.monotonic())
        self._assign(ahead=True)
        return [message.metadata.message_id for shard in shards for message in shard]

    def push_background(self, messages: Iterable[Message], done: Callable[[Sequence[Message]], None]) -> None:
        """As `LocalGrid.push_background`: each message by itself goes to an actor for which no other waits, and sees no state."""
        self._background.append((self._queue(self._split(messages, 1), time.monotonic(), background=True), done))
        self._assign()
        self._answer_background()

    def await_background(self, most: int = 0) -> None:
        """As `LocalGrid.await_background`."""
        while len(self._background) > most:
            undone = [shard.messages for shards, _ in self._background for shard in shards if shard.replies is None]
            if not self.pool.busy and (server := self._server(undone)):
                self._serve_here(server)
            else:
                self._advance(math.inf)

    def finish(self) -> None:
        """As `LocalGrid.finish`."""
        while any(shard.replies is None and shard.patience == math.inf for shard in self._sent):
            self._advance(math.inf)
        self._abandon(self._sent)

    def peak_memory(self) -> tuple[int, int | None]:
        """As `LocalGrid.peak_memory`, over this process and its actors."""
        return self.pool.peak_memory()

    def _update(self) -> None:
        done = [shard for shard in self._sent if shard.replies is not None]
        self._drop([one for one in done if all(r.metadata.reply_to_message_id not in self._replies for r in one.replies or ())])
        self._end_expired(time.monotonic(), math.inf)
        self._assign(ahead=True)
        while self._collect(0.0):
            self._assign(ahead=True)

    def _exchange(self, shards: Sequence[Sequence[Message]], timeout: float) -> list[Message]:
        while (server := self._server(shards, timeout)) is None and not self.pool.busy:
            self._collect(math.inf)
        queued, deadline = self._queue(shards, start := time.monotonic()), start + timeout
        try:
            whole = self._scheduler.choose_one_process(queued) if server and self.pool.busy else None
            while server and not self.pool.lost and (whole or not self.pool.busy) and any(shard.replies is None for shard in queued):
                self._serve_here(server, whole=bool(whole))
            while any(shard.replies is None for shard in queued) and time.monotonic() < deadline:
                self._advance(deadline)
        except BaseException:
            self._abandon(queued)
            raise
        self._end_late(queued, deadline, timeout)
        self._scheduler.learn(queued, time.monotonic() - start, whole)
        replies = [reply for shard in queued for reply in shard.replies or ()]
        self._drop([shard for shard in queued if shard.replies is not None])
        if self._background:
            self._assign()  # actors have something to do while the caller goes on
        return replies

    def _advance(self, deadline: float) -> None:
        """Assign what can go, and wait: for a call or an actor, at most until something is late."""
        now = time.monotonic()
        self._end_expired(now, deadline)
        left = min([deadline, *(shard.expires for shard in self._sent if shard.replies is None)]) - now
        self._assign(left)
        if self._scheduler.patience() <= now:
            self._give_up(self._scheduler.overdue(now))
            self._assign(left)
        wait, patience = self._scheduler.wait_seconds(left), self._scheduler.patience() - now
        if not self._collect(min(wait, patience)) and wait <= patience:
            self._replace_late()

    def _end_expired(self, now: float, deadline: float) -> None:
        """Give shards whose messages' time to live has ended, before the deadline, error replies; forget replies that nobody has taken."""
        gone = [shard for shard in self._sent if shard.expires <= now and shard.expires < deadline]
        self._give_up(gone)
        for shard in gone:
            if shard.replies is None:
                shard.parts, shard.done, shard.seconds = (), [expired(message) for message in shard.messages], math.inf
                self.callback.received(shard.done)

    def _end_late(self, shards: Sequence[Shard], deadline: float, timeout: float) -> None:
        """Have shards that are not done at the deadline go on as long as their messages live; others wait for them for a while."""
        late = [shard for shard in shards if shard.replies is None and shard.expires > deadline]
        for part in (part for shard in late for part in shard.whole):
            part.patience = deadline + max(timeout, ACTOR_START_SECONDS)
        if late:
            number = sum(len(shard.messages) for shard in late)
            self.warn(f"{plural(number, 'message')} had no reply in {timeout:g} s; a late reply can be pulled until its time to live ends")
        self._give_up([shard for shard in shards if shard.replies is None and shard.expires <= deadline])

    def _server(self, shards: Iterable[Sequence[Message]], timeout: float = math.inf) -> LocalServer | None:
        """What may serve shards in this process: nothing once an actor was lost, which may have been over a client."""
        server = None if self.pool.lost or timeout < math.inf else self.local_server
        return server if server and server.may_serve(shards) else None

    def _serve_here(self, server: LocalServer, *, whole: bool = False) -> None:
        """Serve the next shard in this process; if an actor is up before its last client, that takes the shard instead, unless `whole`."""
        (shard,), states = self._scheduler.take(1, seconds_left=0.0), list[Any]()
        try:
            for found in server.serve(self._tasks(shard), single=shard.single):
                if isinstance(found, ShardResult):
                    self._take_states(shard.destinations, shard.kind, found, states)
                    shard.done, shard.seconds = found.replies[0], found.seconds[0]
                elif not whole and self._collect(0.0) and self.pool.busy and len(states) < len(shard.messages) - 1:
                    break
                else:
                    states.append(None if found is None else self.pool.put(found))
        finally:
            if shard.done is None:
                self._scheduler.put_back(shard)
        self._receive([shard])
        while whole and self._collect(0.0):
            self._assign(background=True)

    def _queue(self, shards: Sequence[Sequence[Message]], now: float, *, background: bool = False) -> list[Shard]:
        """Queue shards, the longest first; gives them in their own order."""
        records = dict[int, Any]()  # which fills as the shards go to actors
        queued = [Shard(messages, records, background, expires=now + time_to_live(messages[0])) for messages in shards]
        self._sent += queued
        trains = not background and any(shard.kind in (MessageType.TRAIN, MessageType.EVALUATE) for shard in queued)
        self._scheduler.add(queued, self._client_sizes if trains else None)  # other messages have nothing to do with the clients' examples
        return queued

    def _assign(self, seconds_left: float = math.inf, *, ahead: bool = False, background: bool = False) -> None:
        """Assign waiting shards, or those in the background alone, to actors without work, or `ahead` each to the actor with the fewest."""
        most = None if ahead and self._scheduler.may_assign_ahead() else 1
        actors = self.pool.size
        while (actor := self.pool.free(most=most)) and (shards := self._scheduler.take(actors, seconds_left, background=background)):
            for shard in shards:
                object_store.store_records(shard.messages, shard.records)
                if shard.patience < math.inf:
                    shard.patience = max(shard.patience, time.monotonic() + ACTOR_START_SECONDS)
            tasks = [self._tasks(shard) for shard in shards]
            arguments = tasks, self.pool.shared, shards[0].single
            if shards[0].background or self._stateful.get(shards[0].kind) is False:
                references = [actor.run_stateless.remote(*arguments)]
            else:
                references = actor.run.options(num_returns=1 + sum(map(len, tasks))).remote(*arguments)
            self._scheduler.start(PendingCall(shards, actor, references))
            self.pool.busy[actor] += 1

    def _tasks(self, shard: Shard) -> list[ClientTask]:
        """A shard's messages as they travel, with references to the records that are in the object store."""
        records = object_store.references(shard.messages, shard.records)
        states = [None if shard.background else self.states.get(node) for node in shard.destinations]
        return [
            ClientTask(message.metadata, content, self._node_config(node), self.run_config, state)
            for message, node, content, state in zip(shard.messages, shard.destinations, records, states, strict=True)
        ]

    def _collect(self, timeout: float) -> bool:
        """Wait for one call, or one new actor; whether any came in time. Raises `KeyboardInterrupt` once the pool was stopped."""
        import ray

        self.pool.start(wait=timeout > 0)
        awaited = [*self._scheduler.calls, *self.pool.starting]
        ready = ray.wait(awaited, num_returns=1, timeout=None if timeout == math.inf else timeout)[0] if awaited else []
        if self.pool.stopped:
            raise KeyboardInterrupt
        for reference in ready:
            (self.pool.admit if reference in self.pool.starting else self._finish)(reference)
        return bool(ready)

    def _finish(self, reference: Any) -> None:
        """Take what came of a call. Raises what an actor raised outside its clients, as it cannot load the app."""
        import ray

        call = self._scheduler.calls[reference]
        nodes = [node for shard in call.shards for node in shard.destinations]
        try:
            result: ShardResult = ray.get(reference)
            if not result.crowded:
                self._take_states(nodes, call.shards[0].kind, result, call.results[:-1], away=call.actor in self.pool.away)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError) as error:
            left = f"{len(self.pool.busy) - 1} of {self.pool.size}"
            self.warn(f"an actor died; {left} go on while it is replaced: {str(error).splitlines()[0]}")
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
        self._receive(call.shards)

    def _take_states(self, nodes: Sequence[int], kind: str, result: ShardResult, stored: Sequence[Any] = (), *, away: bool = False) -> None:
        """Keep new states of clients: references to `stored` ones, or those in the result, of clients that were not known to have any."""
        self._stateful[kind] = self._stateful.get(kind, False) or any(result.stateful)
        if result.states:
            away, stored = False, [None if state is None else self.pool.put(state) for state in result.states]
        self.states.update(nodes, stored, result.stateful, away=away)

    def _receive(self, shards: Sequence[Shard]) -> None:
        """Keep the replies of shards that are done."""
        for shard in shards:
            self._keep_replies(shard.done or ())
            self.callback.received(shard.done or ())
        self._answer_background()

    def _answer_background(self) -> None:
        """Give away the replies that were pushed for in the background first, for as long as all of them are there."""
        while self._background and all(shard.replies is not None for shard in self._background[0][0]):
            shards, done = self._background.popleft()
            self._drop(shards)
            done([reply for shard in shards for reply in shard.replies or ()])

    def _replace(self, actor: Any, error: Exception) -> None:
        """Start another actor in the place of one that was lost; shards that were lost too often have error replies."""
        given_up, self.pool.lost = self._scheduler.lose(actor), True
        self.pool.replace(actor)
        for shard in given_up:
            reason = f"it was lost with its actor, {shard.losses} times: {error}"
            shard.done = [Message(Error(REPLY_UNAVAILABLE, reason), reply_to=message) for message in shard.messages]
        self._receive(given_up)

    def _replace_late(self) -> None:
        """Replace actors that hold up several shards, which then run one by one."""
        for call in self._scheduler.late():
            self.warn(f"an actor was not done in time with {len(call.shards)} shards; it is replaced and they run one by one")
            self._replace(call.actor, TimeoutError("not done in time"))

    def _spread(self) -> None:
        """Go on with fewer actors on each GPU, whose memory ran out; what they were at runs again."""
        self._scheduler.restart()
        self.pool.spread()
        self.warn(f"a GPU's memory ran out; {self.pool.size} actors with {self.pool.gpus:g} of a GPU each go on")

    def _give_up(self, shards: Sequence[Shard]) -> None:
        """Abandon shards that are too late."""
        for _ in self._abandon(shards):
            self.pool.lost = True
            self.warn("an actor was not done in time and is replaced")

    def _abandon(self, shards: Sequence[Shard]) -> Sequence[Any]:
        """Drop shards, whole ones of which these may be parts, and replace the actors at work on them, which this gives."""
        asked = set(shards)
        whole = [shard for shard in self._sent if not asked.isdisjoint(shard.whole)]
        for actor in (late := self._scheduler.abandon(whole)):
            self.pool.replace(actor)
        self._drop(whole)
        return late

    def _drop(self, shards: Sequence[Shard]) -> None:
        """Have nothing more to do with shards, and keep none of their replies."""
        gone = set(shards)
        self._sent = [shard for shard in self._sent if shard not in gone]
        for shard in shards:
            self._forget(shard.messages)
