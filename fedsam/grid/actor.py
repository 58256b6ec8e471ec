"""The Ray actor: one share of a device, serving shards of messages with the ClientApp it was handed.

An actor's process imports this module before anything else of this project: it imports nothing that takes long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedsam.grid.process import keep_freed_memory, pause_collection, resume_collection
from fedsam.imports import ROOT

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from fedsam.grid.serving import ClientTask, ShardResult


class ClientActor:
    """Serves shards, one after another; constructed once and kept for all rounds and runs.

    Args:
        load: A reference to what gives the ClientApp, called in the actor's process with the supplies as keywords; in a list, so that Ray
            leaves its import to the actor.
        threads: Torch threads.
        supplies: References to what `load` needs; None where that is not known yet.
        memory: Fraction of the GPU's memory that it may use; None without a GPU.
    """

    def __init__(self, load: Sequence[Any], threads: int, supplies: Mapping[str, Any] | None, memory: float | None = None) -> None:
        pause_collection()
        import ray
        import torch

        self._load: Callable[..., ClientApp] = ray.get(load[0])
        if sys.path[0] == str(ROOT):  # see `ray_session`: this class is ours now, and others' modules are found as in the driver again
            del sys.path[0]
        keep_freed_memory()
        torch.set_num_threads(threads)
        if memory is not None:
            torch.cuda.set_per_process_memory_fraction(memory)
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

        try:
            if self._supplies is not None:
                self._loaded()
        finally:
            resume_collection()
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
        from fedsam.grid.serving import records_of, serve_shards

        app = self._loaded()
        self._records = records_of(shards, self._records)
        yield from serve_shards(app, shards, self._records, shared=shared, single=single)

    def run_stateless(self, shards: Sequence[Sequence[ClientTask]], shared: bool, single: bool) -> ShardResult:
        """As `run`, for clients that are not expected to have states: one object is returned, not one for each client."""
        *states, result = self.run(shards, shared, single)
        whole: ShardResult = replace(result, states=states)
        return whole
