"""The Ray actor: one share of a device, serving shards of messages with the ClientApp it was handed."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from fedsam.grid import object_store
from fedsam.grid.base import time_to_live
from fedsam.grid.process import keep_freed_memory, torch_threads
from fedsam.grid.serving import ClientTask, CrowdedError, ShardServer
from fedsam.imports import ROOT
from fedsam.messages.flower_private import make_content, make_message


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
        app = self._loaded()
        self._records = records_of(shards, self._records)
        yield from serve_shards(app, shards, self._records, shared=shared, single=single)

    def run_stateless(self, shards: Sequence[Sequence[ClientTask]], shared: bool, single: bool) -> ShardResult:
        """As `run`, for clients that are not expected to have states: one object is returned, not one for each client."""
        *states, result = self.run(shards, shared, single)
        whole: ShardResult = replace(result, states=states)
        return whole


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


def records_of(shards: Sequence[Sequence[ClientTask]], known: Mapping[Any, Any]) -> dict[Any, Any]:
    """The records that the tasks refer to, by their references: those that are not `known` from the object store."""
    import ray

    needed = {r for shard in shards for task in shard for r in task.records.values() if isinstance(r, ray.ObjectRef)}
    return {ref: known[ref] if ref in known else ray.get(ref) for ref in needed}


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
        for task in shard:
            key = id(task.records)  # the same where messages share their content
            content = contents[key] = contents.get(key) or _content(task, fetched)
            server = server or ShardServer(app, make_message(task.metadata, content), single=single, shared=shared)
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


def peak_memory() -> tuple[int, int | None]:
    """Peak resident bytes of this process, and peak bytes allocated on its GPU (None without one)."""
    import resource

    import torch

    device = int(torch.cuda.max_memory_allocated()) if torch.cuda.is_initialized() else None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, device
