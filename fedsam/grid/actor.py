"""The Ray actor: one share of a device, serving shards of messages with the ClientApp it was handed."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid.process import keep_freed_memory
from fedsam.imports import ROOT
from fedsam.messages.aggregation import ShardAccumulator
from fedsam.messages.flower_private import CLIENT_APP_RAISED, make_content, make_message, set_message_id


@dataclass(frozen=True)
class ClientTask:
    """One message for one client, as it travels to an actor.

    Attributes:
        records: The message's content; large records are references into the object store, shared by the messages of a round.
        state: Reference to the client's state; None where it has none.
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
    """

    replies: list[list[Message]]
    stateful: list[bool]
    seconds: list[float]
    peak: tuple[int, int | None]
    crowded: bool = False


class CrowdedError(MemoryError):
    """The memory of a GPU that several actors share ran out."""


def serve(app: ClientApp, task: ClientTask, content: RecordDict, state: RecordDict, *, shared: bool = False) -> tuple[Message, RecordDict]:
    """Run one message through the app; an exception becomes an error reply and leaves the client's state as it was.

    If the GPU's memory runs out it is tried once more, with memory that is merely reserved given back.

    Raises:
        CrowdedError: That was not enough, and the GPU is `shared` with other actors.
    """
    import torch

    with suppress(torch.OutOfMemoryError):
        return _attempt(app, task, content, state)
    torch.cuda.empty_cache()  # here, where no traceback holds the tensors of the first attempt
    try:
        return _attempt(app, task, content, state)
    except torch.OutOfMemoryError as error:
        if shared:
            raise CrowdedError from None
        reason = f"the GPU's memory is too small for one client alone: lower the batch size, or take a smaller model ({error})"
        return _failed(task, reason), state


def _attempt(app: ClientApp, task: ClientTask, content: RecordDict, state: RecordDict) -> tuple[Message, RecordDict]:
    """As `serve`, but raises what torch raises when the GPU's memory runs out."""
    import torch

    context = Context(
        run_id=task.metadata.run_id,
        node_id=task.metadata.dst_node_id,
        node_config=dict(task.node_config),
        state=_copied(state),
        run_config=dict(task.run_config),
    )
    try:
        reply = app(make_message(task.metadata, _copied(content)), context)
        if not isinstance(reply, Message) or reply.metadata.reply_to_message_id != task.metadata.message_id:
            raise TypeError(f"the ClientApp gave a {type(reply).__name__} that is no reply to its message")
    except torch.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:  # whatever a client raises must name the client, not end the process that others share
        return _failed(task, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"), state
    set_message_id(reply, f"{task.metadata.message_id}-reply")
    return reply, context.state


def _failed(task: ClientTask, reason: str) -> Message:
    return Message(Error(CLIENT_APP_RAISED, reason), reply_to=make_message(task.metadata, RecordDict()))


def _copied(content: RecordDict) -> RecordDict:
    """A copy whose records an app may change without others seeing it; arrays are shared, they cannot change."""
    return make_content({key: record.copy() for key, record in content.items()})


class ClientActor:
    """Serves shards, one after another; constructed once and kept for all rounds and runs.

    Args:
        load: Gives the ClientApp, called in the actor's process with the supplies as keywords.
        threads: Torch threads.
        supplies: References to what `load` needs; None where that is not known yet.
        memory: Fraction of the GPU's memory that it may use; None without a GPU.
    """

    def __init__(
        self, load: Callable[..., ClientApp], threads: int, supplies: Mapping[str, Any] | None, memory: float | None = None
    ) -> None:
        import torch

        if sys.path[0] == str(ROOT):  # see `ray_session`: this class is ours now, and others' modules are found as in the driver again
            del sys.path[0]
        keep_freed_memory()
        torch.set_num_threads(threads)
        if memory is not None:
            torch.cuda.set_per_process_memory_fraction(memory)
        self._load = load
        self._records: dict[Any, Any] = {}
        self._app: ClientApp | None = None
        self._supplies = supplies

    def supply(self, supplies: Mapping[str, Any]) -> tuple[int, str]:
        """Serve with an app loaded with other supplies from now on; as `process`."""
        self._app, self._supplies = None, supplies
        return self.process()

    def process(self) -> tuple[int, str]:
        """Process id and Ray's id of the machine; answers once the actor is ready, its app loaded where its supplies are known."""
        import ray

        if self._supplies is not None:
            self._loaded()
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def _loaded(self) -> ClientApp:
        """The app, loaded where it is not yet."""
        import ray

        if self._app is None:
            self._app = self._load(**{name: ray.get(reference) for name, reference in (self._supplies or {}).items()})
        return self._app

    def run(self, shards: Sequence[Sequence[ClientTask]], shared: bool, single: bool) -> Iterator[Any]:
        """Each client's new state, None where it keeps the one it has; then a `ShardResult`.

        Called with `num_returns`, so that Ray stores a state before the next client runs: one client's state is in memory, not a shard's.

        Args:
            shared: Whether others share the GPU.
            single: Keep replies single, whatever the messages ask for.
        """
        import ray

        app = self._loaded()
        needed = {r for shard in shards for task in shard for r in task.records.values() if isinstance(r, ray.ObjectRef)}
        self._records = {ref: self._records[ref] if ref in self._records else ray.get(ref) for ref in needed}
        replies, stateful, seconds, crowded = [], [], [], False
        for shard in shards:
            start, accumulator, contents = time.perf_counter(), None, dict[int, RecordDict]()
            for task in shard:
                key = id(task.records)  # the same where messages share their content
                content = contents[key] = contents.get(key) or self._content(task)
                accumulator = accumulator or ShardAccumulator(make_message(task.metadata, content), single=single)
                try:
                    if crowded:
                        raise CrowdedError
                    reply, state = serve(app, task, content, ray.get(task.state) if task.state else RecordDict(), shared=shared)
                except CrowdedError:
                    crowded = True
                    stateful.append(False)
                    yield None
                    continue
                stateful.append(accumulator.add(reply) and (len(state) > 0 or task.state is not None))
                yield state if stateful[-1] else None
                del reply, state  # or they stay while the next client's are made
            replies.append(accumulator.replies() if accumulator else [])
            seconds.append(time.perf_counter() - start)
        yield ShardResult(replies, stateful, seconds, peak_memory(), crowded)

    def _content(self, task: ClientTask) -> RecordDict:
        import ray

        return make_content({key: self._records[r] if isinstance(r, ray.ObjectRef) else r for key, r in task.records.items()})


def peak_memory() -> tuple[int, int | None]:
    """Peak resident bytes of this process, and peak bytes allocated on its GPU (None without one)."""
    import resource

    import torch

    device = int(torch.cuda.max_memory_allocated()) if torch.cuda.is_initialized() else None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, device
