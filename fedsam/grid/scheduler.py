"""Which shards go to an actor next, and what becomes of them when a call is done, late, lost or out of memory.

Nothing here knows Ray, threads or a clock: actors and calls are opaque, and times are arguments, in seconds.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from statistics import median
from typing import Any

from flwr.app import Message

LEAST_CALL_SECONDS = 0.03  # that shards go together for whatever else waits; Ray's share of a call is several thousandths
CALL_SHARE = 0.75  # of an even share of what waits, that a call is
MOST_CALL_SECONDS = 0.25  # that shards go together for
ACTOR_START_SECONDS = 60.0  # in which a new actor is up for certain
PACES = 5  # exchanges of which the fastest counts
LEAST_PACES = 2  # as the first exchange, for which there is something to load, is slower
LEAST_SPEEDUP = 1.5  # of actors against one process, that leaves no doubt
ONE_PROCESS_MARGIN = 1.1  # that it may take longer than actors do
CHOICES_PER_TRIAL = 20  # of which one is against what is known
MAX_LOSSES = 3  # actors that may die over a shard before it is given up


@dataclass(eq=False)
class Shard:
    """Messages that are served together, and how far they are.

    Attributes:
        records: The messages' array records in the object store, by identity.
        work: How much it is, in any unit.
        background: Whether it goes to an actor only where no other shard can, and in no order with others to its nodes.
        losses: Actors that died over it.
        parts: Its messages one by one, once too many did.
        single: Whether replies stay single whatever its messages ask for, as those of a part, of which only a strategy knows the whole.
        done: Its replies; None until they are there, and where it has parts.
        seconds: That it took.
        expires: Clock time at which its messages' time to live ends.
        patience: Clock time up to which others wait for it, once it is late.
    """

    messages: Sequence[Message]
    records: dict[int, Any] = field(default_factory=dict)
    background: bool = False
    work: float = 1.0
    losses: int = 0
    parts: Sequence[Shard] = ()
    single: bool = False
    done: list[Message] | None = None
    seconds: float = 0.0
    expires: float = math.inf
    patience: float = math.inf

    @property
    def whole(self) -> Sequence[Shard]:
        """Itself and its parts."""
        return (self, *self.parts)

    @property
    def replies(self) -> list[Message] | None:
        """Those of its parts, where it has any; None until all are there."""
        if not self.parts:
            return self.done
        return None if any(part.done is None for part in self.parts) else [reply for part in self.parts for reply in part.done or ()]

    @property
    def kind(self) -> str:
        """Type of its messages."""
        return self.messages[0].metadata.message_type

    @cached_property
    def destinations(self) -> list[int]:
        """The node of each message."""
        return [message.metadata.dst_node_id for message in self.messages]

    @cached_property
    def nodes(self) -> set[int]:
        """Where its messages go in the order in which they are sent."""
        return set() if self.background else set(self.destinations)


@dataclass(frozen=True)
class PendingCall:
    """Shards at an actor.

    Attributes:
        results: What stands for the results until they are there: the clients' states, then the key of the call.
    """

    shards: Sequence[Shard]
    actor: Hashable
    results: Sequence[Any] = field(repr=False)

    @property
    def key(self) -> Any:
        """What names the call."""
        return self.results[-1]


class Scheduler:
    """A queue of shards, and the calls in progress.

    Shards go in their order, those in the background after all others. No node has messages at two actors: the second must find the state
    that the first leaves. What was at an actor that is replaced goes again, from the same inputs, before all others.

    Attributes:
        calls: Those in progress, by key, the oldest first.
    """

    def __init__(self) -> None:
        self.calls: dict[Any, PendingCall] = {}
        self._waiting: deque[Shard] = deque()
        self._background: deque[Shard] = deque()
        self._occupied: set[int] = set()  # nodes with a message at an actor
        self._usual: dict[str, float] = {}  # seconds that a unit of work takes, by kind
        self._paces = defaultdict[tuple[str, bool], deque[float]](lambda: deque(maxlen=PACES))  # of exchanges; of one process, or of actors
        self._choices = Counter[str]()  # by kind

    def add(self, shards: Sequence[Shard], sizes: Sequence[int] | None = None) -> None:
        """Queue shards, in their order, or those with the most work first, by the `sizes` of all nodes."""
        if sizes:
            for shard in shards:
                shard.work = sum(sizes[node - 1] for node in shard.destinations)
        ordered = sorted(shards, key=lambda shard: shard.work, reverse=True)  # stable, in both directions
        self._background.extend(shard for shard in ordered if shard.background)
        self._waiting.extend(shard for shard in ordered if not shard.background)

    def take(self, actors: int, seconds_left: float = math.inf, *, background: bool = False) -> list[Shard]:
        """The shards for the next call, off the queue: the first, and others that go with it; empty where none can go now.

        A shard that was lost goes alone: if it kills actors, it takes no other with it.

        Args:
            actors: How many there are.
            seconds_left: Until the replies must be there.
            background: Only one of those in the background.
        """
        found: list[Shard] = []
        taken, room = set(self._occupied), math.inf
        for shard in () if background else self._waiting:
            if taken.isdisjoint(shard.nodes) and not (found and shard.losses) and shard.work <= 2 * room:  # the limit, to the nearest
                room = (room if found else self._call_work(shard, actors, seconds_left)) - shard.work
                found.append(shard)
            if found and room <= 0:
                break
            taken |= shard.nodes
        for shard in found:
            self._waiting.remove(shard)
        if not found and self._background:
            found.append(self._background.popleft())
        return found

    def put_back(self, shard: Shard) -> None:
        """Queue a shard again that `take` gave, before all others of its sort."""
        (self._background if shard.background else self._waiting).appendleft(shard)

    def _call_work(self, first: Shard, actors: int, seconds_left: float) -> float:
        """How much work makes up a call: most of an even share of what waits, so that calls become shorter towards the end.

        More, up to an even share of what is not done, where that were too short a call; none beyond the first shard where the last of its
        kind did not end, or none is known.
        Several go together only with time left to run them one by one should a client hang.
        """
        usual = max(self._usual.get(first.kind, math.inf), 1e-9)
        if first.losses or seconds_left < ACTOR_START_SECONDS:
            return 0.0
        waiting = sum(shard.work for shard in self._waiting)
        undone = waiting + sum(shard.work for call in self.calls.values() for shard in call.shards if not shard.background)
        return min(undone / actors, max(LEAST_CALL_SECONDS / usual, min(CALL_SHARE * waiting / actors, MOST_CALL_SECONDS / usual)))

    def start(self, call: PendingCall) -> None:
        """Note that a call of shards that `take` gave is in progress."""
        self.calls[call.key] = call
        self._occupied.update(*(shard.nodes for shard in call.shards))

    def end(self, key: Any) -> PendingCall:
        """Forget a call."""
        call = self.calls.pop(key)
        self._occupied.difference_update(*(shard.nodes for shard in call.shards))
        return call

    def finish(self, key: Any, replies: Sequence[list[Message]], seconds: Sequence[float]) -> None:
        """End a call: its shards have these replies and took so long."""
        for shard, its_replies, its_seconds in zip(self.end(key).shards, replies, seconds, strict=True):
            shard.done, shard.seconds = its_replies, its_seconds

    def learn(self, shards: Sequence[Shard], seconds: float = math.inf, one_process: bool | None = None) -> None:
        """Take from an exchange how long shards of its kind take; where one did not end, they go alone the next time.

        Args:
            seconds: That it took.
            one_process: Whether one process was to serve all of it, or actors; None where that was not chosen.
        """
        kind, ended = shards[0].kind, all(shard.done is not None for shard in shards)
        self._usual[kind] = median(shard.seconds / max(shard.work, 1) for shard in shards) if ended else math.inf
        if ended and one_process is not None:
            self._paces[kind, one_process].append(seconds / _work(shards))

    def choose_one_process(self, shards: Sequence[Shard]) -> bool:
        """Whether one process is to serve all shards of an exchange, in turn, as calls of actors take longer.

        Known from the last exchanges of their kind; where one process may be as fast, every twentieth choice is the slower way, so that
        both stay known. Where both take as long it is one process, which needs half the CPU time: it copies no vectors and makes no calls.
        Actors serve what must not overtake other messages.
        """
        kind, work = shards[0].kind, _work(shards)
        actors, alone = self._paces[kind, False], self._paces[kind, True]
        in_turn = self._usual.get(kind, math.inf) * work
        if self._occupied or len(self._waiting) > len(shards) or len(actors) < LEAST_PACES:
            return False
        if in_turn > min(MOST_CALL_SECONDS, LEAST_SPEEDUP * min(actors) * work):
            return False
        self._choices[kind] += 1
        faster = len(alone) < LEAST_PACES or min(alone) <= ONE_PROCESS_MARGIN * min(actors)
        return faster != (self._choices[kind] % CHOICES_PER_TRIAL == 0)

    def wait_seconds(self, seconds_left: float) -> float:
        """How long to wait for a call: all that is left, or half of it while there are calls of several shards."""
        return seconds_left / (2 if self._combined() else 1)

    def patience(self) -> float:
        """Clock time up to which the shards that wait do so for late calls; infinite where none waits, or no call is late."""
        waiting = self._waiting or self._background
        return min((_patience(call) for call in self.calls.values()), default=math.inf) if waiting else math.inf

    def overdue(self, now: float) -> list[Shard]:
        """The shards of late calls for which others have waited long enough."""
        return [shard for call in self.calls.values() if _patience(call) <= now for shard in call.shards]

    def may_assign_ahead(self) -> bool:
        """Whether actors may have several calls at a time: not while a shard was lost, so that it is clear which one was to blame."""
        return not any(shard.losses for shard in chain(self._waiting, *(call.shards for call in self.calls.values())))

    def late(self) -> list[PendingCall]:
        """The oldest call of several shards of each actor: what is lost when time runs short, so that no shard waits for one that hangs."""
        oldest: dict[Hashable, PendingCall] = {}
        for call in self._combined():
            oldest.setdefault(call.actor, call)
        return list(oldest.values())

    def _combined(self) -> list[PendingCall]:
        return [call for call in self.calls.values() if len(call.shards) > 1]

    def lose(self, actor: Hashable) -> list[Shard]:
        """Have all that was at a lost actor go again; the shards of its oldest call, over which it was lost, count that.

        A shard that is lost repeatedly goes message by message: a client that kills its actor takes no other with it.

        Returns:
            The shards that are given up, which were lost too often.
        """
        given_up = []
        for shard in self._requeue([actor])[0].shards:
            shard.losses += 1
            if shard.losses > MAX_LOSSES:
                self._waiting.remove(shard)
                given_up.append(shard)
            elif shard.losses > MAX_LOSSES // 2 and len(shard.messages) > 1:
                self._waiting.remove(shard)
                part = replace(shard, parts=(), work=shard.work / len(shard.messages), single=True)
                shard.parts = [replace(part, messages=[message]) for message in shard.messages]
                self._waiting.extendleft(reversed(shard.parts))
        return given_up

    def restart(self) -> None:
        """Have all that is in a call go again: other actors take the place of all."""
        self._requeue({call.actor for call in self.calls.values()})

    def _requeue(self, actors: Container[Hashable]) -> list[PendingCall]:
        """Queue what was at actors again; the calls that this ends."""
        calls = [self.end(key) for key, call in list(self.calls.items()) if call.actor in actors]
        self._waiting.extendleft(shard for call in reversed(calls) for shard in reversed(call.shards))
        return calls

    def abandon(self, shards: Iterable[Shard]) -> list[Hashable]:
        """Forget shards; the actors at work on them, which are to be replaced, as what they do is of no use any more."""
        gone = {part for shard in shards for part in shard.whole}
        late = list(dict.fromkeys(call.actor for call in self.calls.values() if not gone.isdisjoint(call.shards)))
        self._requeue(late)
        self._waiting = deque(shard for shard in self._waiting if shard not in gone)
        self._background = deque(shard for shard in self._background if shard not in gone)
        return late


def _work(shards: Sequence[Shard]) -> float:
    return max(sum(shard.work for shard in shards), 1)


def _patience(call: PendingCall) -> float:
    return max(shard.patience for shard in call.shards)
