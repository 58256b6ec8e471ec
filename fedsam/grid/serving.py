"""How messages and shards of them are served, in any process: by a ClientApp as Flower calls one, or past the messages.

The latter where it makes no difference to what comes of them.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeVar, runtime_checkable

from flwr.app import Context, Error, Message, MessageType, Metadata, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid import object_store
from fedsam.grid.base import time_to_live
from fedsam.grid.process import peak_memory, torch_threads
from fedsam.messages.aggregation import ShardAccumulator, failure, update_sum
from fedsam.messages.codec import AggregationSpec, PartialSum, Update
from fedsam.messages.flower_private import CLIENT_APP_RAISED, make_content, make_message, set_message_id
from fedsam.seeds import kept_python_generator

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class ClientTask:
    """One message for one client, as it travels to an actor.

    Attributes:
        records: The message's content; large records are references into the object store, shared by the messages of a round.
        state: Reference to the client's state, or the state itself; None where it has none.
    """

    metadata: Metadata
    records: Mapping[str, Any]
    node_config: Mapping[str, Any]
    run_config: Mapping[str, Any]
    state: Any = None


@dataclass(frozen=True)
class ShardResult:
    """The results of shards, the clients' states aside.

    Attributes:
        replies: Of each shard.
        stateful: Of each client in turn, whether it has a new state.
        seconds: That each shard took.
        peak: The actor's `peak_memory`.
        crowded: The memory of the GPU, which has other actors, ran out: nothing here counts.
        states: Each client's new state, None where it keeps the one it has; empty where they are returned by themselves.
    """

    replies: list[list[Message]]
    stateful: list[bool]
    seconds: list[float]
    peak: tuple[int, int | None]
    crowded: bool = False
    states: list[RecordDict | None] = field(default_factory=list)


@runtime_checkable
class UpdatingClientApp(Protocol):
    """A ClientApp that can train without a message: for updates that are added up in the same process and cross no network."""

    def train_update(self, content: RecordDict, context: Context) -> Update:
        """What the reply to a `train` message with this content, which is not to be changed, would hold; `context.state` changes."""


class CrowdedError(MemoryError):
    """The memory of a GPU that several actors share ran out."""


class ShardServer:
    """Runs the messages of a shard through an app, and keeps or adds up what comes of them.

    Args:
        first: The shard's first message.
        single: Keep replies single, whatever the messages ask for.
        shared: Whether others share the GPU.

    Attributes:
        direct: Whether clients train without messages.
    """

    def __init__(self, app: ClientApp, first: Message, *, single: bool = False, shared: bool = False) -> None:
        self._app, self._shared = app, shared
        self._accumulator = ShardAccumulator(first, single=single)
        self.direct = self._accumulator.spec is not None and isinstance(app, UpdatingClientApp)

    def serve(self, task: ClientTask, content: RecordDict, state: RecordDict) -> tuple[bool, RecordDict]:
        """Whether the client's reply can be used, and its new state. Raises as `serve`."""
        reply: Message | PartialSum
        if self.direct:
            reply, state = _updated(self._app, task, content, state, self._accumulator.spec, shared=self._shared)
        else:
            reply, state = serve(self._app, task, content, state, shared=self._shared)
        return self._accumulator.add(reply), state

    def replies(self) -> list[Message]:
        """The replies, or one message in their place."""
        return self._accumulator.replies()


def serve(app: ClientApp, task: ClientTask, content: RecordDict, state: RecordDict, *, shared: bool = False) -> tuple[Message, RecordDict]:
    """Run one message through the app; an exception becomes an error reply and leaves the client's state as it was.

    If the GPU's memory runs out it is tried once more, with memory that is merely reserved given back.

    Raises:
        CrowdedError: That was not enough, and the GPU is `shared` with other actors.
    """

    def attempt() -> tuple[Message, RecordDict]:
        context = _context(task, state)
        reply = app(make_message(task.metadata, _copied(content)), context)
        if not isinstance(reply, Message) or reply.metadata.reply_to_message_id != task.metadata.message_id:
            raise TypeError(f"the ClientApp gave a {type(reply).__name__} that is no reply to its message")
        set_message_id(reply, f"{task.metadata.message_id}-reply")
        return reply, context.state

    def failed(reason: str) -> tuple[Message, RecordDict]:
        return Message(Error(CLIENT_APP_RAISED, reason), reply_to=make_message(task.metadata, RecordDict())), state

    return _guarded(attempt, failed, shared)


def _updated(
    app: Any, task: ClientTask, content: RecordDict, state: RecordDict, spec: AggregationSpec | None, *, shared: bool
) -> tuple[PartialSum, RecordDict]:
    """As `serve` of an `UpdatingClientApp`, and the sum of its reply."""
    assert spec is not None
    node = task.metadata.dst_node_id

    def attempt() -> tuple[PartialSum, RecordDict]:
        context = _context(task, state)
        return update_sum(node, app.train_update(content, context), spec), context.state

    return _guarded(attempt, lambda reason: (failure(node, reason), state), shared)


def _guarded(attempt: Callable[[], Reply], failed: Callable[[str], Reply], shared: bool) -> Reply:
    """What an attempt gives, or what `failed` makes of the reason why not. Raises as `serve`."""
    import torch

    def caught() -> Reply:
        try:
            return attempt()
        except torch.OutOfMemoryError:
            raise
        except (Exception, SystemExit) as error:  # whatever a client raises must name the client, not end the process that others share
            return failed(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")

    with suppress(torch.OutOfMemoryError):
        return caught()
    torch.cuda.empty_cache()  # here, where no traceback holds the tensors of the first attempt
    try:
        return caught()
    except torch.OutOfMemoryError as error:
        if shared:
            raise CrowdedError from None
        return failed(f"the GPU's memory is too small for one client alone: lower the batch size, or take a smaller model ({error})")


def _context(task: ClientTask, state: RecordDict) -> Context:
    return Context(
        run_id=task.metadata.run_id,
        node_id=task.metadata.dst_node_id,
        node_config=dict(task.node_config),
        state=_copied(state),
        run_config=dict(task.run_config),
    )


def _copied(content: RecordDict) -> RecordDict:
    """A copy whose records an app may change without others seeing it; arrays are shared, they cannot change."""
    return make_content({key: record.copy() for key, record in content.items()})


def serve_shards(
    app: ClientApp, shards: Sequence[Sequence[ClientTask]], fetched: Mapping[Any, Any], *, shared: bool, single: bool
) -> Iterator[Any]:
    """Serve shards in this process; gives what `ClientActor.run` gives.

    Args:
        fetched: What `records_of` gives.
        shared: As of `ClientActor.run`.
        single: As of `ClientActor.run`.
    """
    replies, stateful, seconds, crowded = [], [], [], False
    for shard in shards:
        start, server, contents = time.perf_counter(), None, dict[int, RecordDict]()
        with ExitStack() as stack:
            for task in shard:
                key = id(task.records)  # the same where messages share their content
                content = contents[key] = contents.get(key) or _content(task, fetched)
                if server is None:
                    server = ShardServer(app, make_message(task.metadata, content), single=single, shared=shared)
                    if server.direct:
                        stack.enter_context(kept_python_generator())  # such clients seed it
                try:
                    if crowded:
                        raise CrowdedError
                    usable, state = server.serve(task, content, object_store.load(task.state) if task.state else RecordDict())
                except CrowdedError:
                    crowded = True
                    stateful.append(False)
                    yield None
                    continue
                stateful.append(usable and (len(state) > 0 or task.state is not None))
                yield state if stateful[-1] else None
                del state  # or it stays while the next client's is made
        replies.append(server.replies() if server else [])
        seconds.append(time.perf_counter() - start)
    yield ShardResult(replies, stateful, seconds, peak_memory(), crowded)


def _content(task: ClientTask, fetched: Mapping[Any, Any]) -> RecordDict:
    import ray

    return make_content({name: fetched[r] if isinstance(r, ray.ObjectRef) else r for name, r in task.records.items()})


def records_of(shards: Sequence[Sequence[ClientTask]], known: Mapping[Any, Any]) -> dict[Any, Any]:
    """The records that the tasks refer to, by their references: those that are not `known` from the object store."""
    import ray

    needed = {r for shard in shards for task in shard for r in task.records.values() if isinstance(r, ray.ObjectRef)}
    return {ref: known[ref] if ref in known else ray.get(ref) for ref in needed}


class LocalServer:
    """Serves clients in the process that sends the messages, as an actor does in its own. A client that ends its process ends this one.

    Args:
        load: Gives the ClientApp, called when it is needed.
        threads: Torch threads; an actor with as many computes the same bits.
        kinds: Types of the messages that it serves: those that take no longer than an actor may wait.
    """

    def __init__(self, load: Callable[[], ClientApp], threads: int, kinds: Collection[str] = (MessageType.TRAIN,)) -> None:
        self._load, self._threads, self._kinds = cache(load), threads, kinds

    def serve(self, shard: Sequence[ClientTask], *, single: bool) -> Iterator[Any]:
        """As `ClientActor.run`, for one shard."""
        with torch_threads(self._threads):
            yield from serve_shards(self._load(), [shard], records_of([shard], {}), shared=False, single=single)

    def may_serve(self, shards: Iterable[Iterable[Message]]) -> bool:
        """Whether all messages are of its kinds, and none has a time to live."""
        each = (message for shard in shards for message in shard)
        return all(message.metadata.message_type in self._kinds and time_to_live(message) == math.inf for message in each)
