"""The Ray actors that serve clients: hired, fed, replaced when they die."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.clientapp import ClientApp

from fedsam.actor import ClientActor, peak_memory

RESTARTS = 3


class ActorPool:
    """Ray actors that serve clients; they outlive a run, so that the runs of a sweep start at once.

    An actor gets work once it is up: one that Ray cannot place, because a machine was lost, holds nothing back.

    Args:
        load: Gives the ClientApp, in the actor's process; called with the supplies as keywords.
        actors: How many.
        cpus: Of each, also its torch threads.
        gpus: Share of a GPU of each; fractions allowed.
        memory: Fraction of its GPU's memory that each may use; default: its share of the GPU.

    Attributes:
        busy: The actors that are up, and how many shards each has been dealt.
        away: Those of them that are on other machines.
        starting: The others, by the reference that is there once they are up.
        memory: Fraction of its GPU's memory that each may use; None without a GPU.
    """

    def __init__(
        self, load: Callable[..., ClientApp], *, actors: int, cpus: int = 1, gpus: float = 0.0, memory: float | None = None
    ) -> None:
        import ray

        self._load, self._cpus = load, cpus
        self.memory = (memory or min(gpus, 1.0)) if gpus else None
        self._supplies: dict[str, Any] = {}
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus)(ClientActor)
        self._peaks: dict[Any, tuple[int, int | None]] = {}
        self._deaths = 0
        self.busy: dict[Any, int] = {}
        self.away: set[Any] = set()
        self.starting: dict[Any, Any] = {}
        for _ in range(actors):
            self._start()

    def supply(self, **supplies: Any) -> None:
        """Put what `load` needs into the object store, once for all actors of a node, and have them load the app with it."""
        import ray

        self._supplies = {name: ray.put(thing) for name, thing in supplies.items()}
        for actor in (*self.busy, *self.starting.values()):
            actor.supply.remote(self._supplies)

    def ready(self) -> list[int]:
        """Wait until every actor is up; their process ids."""
        import ray

        while self.starting:
            self.admit(ray.wait(list(self.starting))[0][0])
        return [pid for pid, _ in ray.get([actor.process.remote() for actor in self.busy])]

    def admit(self, reference: Any) -> None:
        """Give work from now on to the starting actor that `reference` belongs to.

        Raises:
            RuntimeError: Actors die at their start, again and again.
        """
        import ray

        actor = self.starting.pop(reference)
        try:
            _, machine = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._start()
            self._deaths += 1
            if self._deaths > RESTARTS:
                raise RuntimeError(f"actors die at their start, {self._deaths} in a row: {error}") from error
            return
        self._deaths = 0
        self.busy[actor] = 0
        if machine != ray.get_runtime_context().get_node_id():
            self.away.add(actor)

    def free(self, *, most: int | None = None) -> Any:
        """The actor with the least work, None where all have `most` shards or more."""
        actor = min(self.busy, key=self.busy.__getitem__, default=None)
        return actor if actor is not None and (most is None or self.busy[actor] < most) else None

    def replace(self, actor: Any) -> bool:
        """Start a new actor in the place of one that died or hangs; whether that was not done before."""
        import ray

        if actor not in self.busy:
            return False
        del self.busy[actor]
        self.away.discard(actor)
        self._peaks.pop(actor, None)
        ray.kill(actor)
        self._start()
        return True

    def release(self, actor: Any, peak: tuple[int, int | None] | None) -> None:
        """Note that an actor, if it was not replaced, is done with a shard, and its `fedsam.actor.peak_memory` where that is known."""
        if actor in self.busy:
            self.busy[actor] -= 1
            if peak is not None:
                self._peaks[actor] = peak

    def peak_memory(self) -> tuple[int, int | None]:
        """Over this process and all actors, as last reported: largest peak resident bytes, largest peak GPU bytes."""
        peaks = [peak_memory(), *self._peaks.values()]
        return max(rss for rss, _ in peaks), max((device for _, device in peaks if device is not None), default=None)

    def _start(self) -> None:
        actor: Any = self._kind.remote(self._load, self._cpus, self._supplies, self.memory)
        self.starting[actor.process.remote()] = actor
