"""The Ray actors that serve clients: started, supplied with data, replaced when they die."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.clientapp import ClientApp

from fedsam.grid import object_store
from fedsam.grid.actor import ClientActor
from fedsam.grid.process import peak_memory
from fedsam.grid.session import RayStart

MAX_START_DEATHS = 3  # of actors in a row, before a pool gives up


@dataclass(frozen=True)
class Stored:
    """What the object store holds once `reference`, called when Ray is up, has given the reference to it."""

    reference: Callable[[], Any]


class ActorPool:
    """Ray actors that serve clients; they outlive a run, so that the runs of a sweep start at once.

    An actor gets work once it is up and has loaded its app: one that Ray cannot place, because a machine was lost, holds nothing back.

    Args:
        load: Gives the ClientApp, in the actor's process; called with the supplies as keywords.
        actors: How many.
        cpus: Of each, also its torch threads.
        gpus: Share of a GPU of each; fractions allowed.
        memory: Fraction of its GPU's memory that each may use; default: its share of the GPU.
        ray_start: Where Ray may not be up yet: the actors start when `start` is called and it is; default: they start at once.
        first: How many of them start before one is up, where nothing waits for them; default: all.

    Attributes:
        busy: The actors that are up, and how many calls each has to do.
        away: Those of them that are on other machines.
        starting: The others, by a reference that is ready once they are up.
        stopped: Whether it was stopped: no actor is started any more.
        lost: Whether an actor died or hung at its work, maybe over a client, as whoever gave it the work says.
        memory: Fraction of its GPU's memory that each may use; None without a GPU.
        gpus: Share of a GPU of each.
    """

    def __init__(
        self,
        load: Callable[..., ClientApp],
        *,
        actors: int,
        cpus: int = 1,
        gpus: float = 0.0,
        memory: float | None = None,
        ray_start: RayStart | None = None,
        first: int | None = None,
    ) -> None:
        import ray

        self._load, self._cpus = load, cpus
        self.memory = (memory or min(gpus, 1.0)) if gpus else None
        self._given: dict[str, Any] | None = None  # what has yet to be supplied
        self._supplies: dict[str, Any] | None = None
        self._load_reference: Any = None
        self._kind = ray.remote(num_cpus=cpus, num_gpus=gpus)(ClientActor)
        self.gpus, self.stopped, self.lost = gpus, False, False
        self._peaks: dict[Any, tuple[int, int | None]] = {}
        self._deaths = 0
        self.busy: dict[Any, int] = {}
        self.away: set[Any] = set()
        self.starting: dict[Any, Any] = {}
        self._ray_start, self._first, self._later = ray_start, first or actors, actors
        if ray_start is None:
            self.start(wait=True)

    @property
    def size(self) -> int:
        """How many actors there are."""
        return len(self.busy) + len(self.starting) + self._later

    def has_ray(self, *, wait: bool = False) -> bool:
        """Whether Ray is up, for which this waits if it is to. Raises what keeps it from that."""
        return self._ray_start is None or self._ray_start.is_up(wait=wait)

    def put(self, thing: Any) -> Any:
        """A reference to a thing in the object store, or the thing itself as long as Ray is not up."""
        return object_store.put(thing) if self.has_ray() else thing

    def start(self, *, wait: bool) -> None:
        """Start actors that have not begun to, if Ray is up.

        Args:
            wait: Wait for Ray, and start all actors at once.
        """
        if not self._later or not self.has_ray(wait=wait):
            return
        if self._given is not None:
            self._hand_out(self._given)
        while self._later and (wait or self.busy or len(self.starting) < self._first):
            self._start()
            self._later -= 1

    def split(self, number: int) -> list[ActorPool]:
        """As many pools, to which the actors of this one are assigned in turn; it keeps none, and they must not be at work.

        Those that have not begun to start go to the first.
        """
        parts = [ActorPool(self._load, actors=0, cpus=self._cpus, gpus=self.gpus, memory=self.memory) for _ in range(number)]
        for turn, (reference, actor) in enumerate(self.starting.items()):
            parts[turn % number].starting[reference] = actor
        for turn, actor in enumerate(self.busy, len(self.starting)):
            parts[turn % number].busy[actor] = 0
            parts[turn % number].away |= self.away & {actor}
        parts[0]._ray_start, parts[0]._first, parts[0]._later = self._ray_start, self._first, self._later
        self.starting, self.busy, self.away, self._later = {}, {}, set(), 0
        return parts

    @property
    def shared(self) -> bool:
        """Whether an actor shares its GPU with others."""
        return 0 < self.gpus <= 0.5

    def spread(self) -> None:
        """Have half as many actors, each with twice the share of a GPU and of its memory; what the present ones do is lost."""
        import ray

        devices, share = math.ceil(self.gpus * self.size - 1e-9), min(1.0, 2 * self.gpus)
        actors = max(1, min(self.size // 2, devices * int(1 / share)))
        for actor in (*self.busy, *self.starting.values()):
            ray.kill(actor)
        self.busy, self.starting, self.away = {}, {}, set()
        self.gpus, self.memory = share, self.memory and min(1.0, 2 * self.memory)
        self._kind = ray.remote(num_cpus=self._cpus, num_gpus=share)(ClientActor)
        for _ in range(actors):
            self._start()

    def stop(self) -> None:
        """End the actors, from any thread: a thread that waits for them, or calls them later, is interrupted."""
        import ray

        self.stopped = True
        for actor in (*self.busy, *self.starting.values()):
            ray.kill(actor)

    def supply(self, **supplies: Any) -> None:
        """Give the actors what `load` needs, with which they load the app.

        Args:
            supplies: Things, each put into the object store once for all actors of a node, or `Stored` ones.
        """
        self._given = supplies
        if self.has_ray():
            self._hand_out(supplies)

    def _hand_out(self, supplies: Mapping[str, Any]) -> None:
        import ray

        self._supplies = {name: thing.reference() if isinstance(thing, Stored) else ray.put(thing) for name, thing in supplies.items()}
        actors = [*self.busy, *self.starting.values()]
        self.busy, self.away = {}, set()
        self.starting = {actor.supply.remote(self._supplies): actor for actor in actors}
        self._given = None

    def ready(self) -> list[int]:
        """Wait until every actor is up; their process ids."""
        import ray

        self.start(wait=True)
        while self.starting:
            self.admit(ray.wait(list(self.starting))[0][0])
        return [pid for pid, _ in ray.get([actor.process.remote() for actor in self.busy])]

    def admit(self, reference: Any) -> None:
        """Give work from now on to the starting actor that `reference` belongs to.

        Raises:
            RuntimeError: Actors die at their start, again and again.
            Exception: What the app raised when it was loaded; the actor stays.
        """
        import ray

        actor = self.starting.pop(reference)
        try:
            _, machine = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._start()
            self._deaths += 1
            if self._deaths > MAX_START_DEATHS:
                raise RuntimeError(f"actors die at their start, {self._deaths} in a row: {error}") from error
            return
        except ray.exceptions.RayTaskError as error:
            self.busy[actor] = 0
            raise (error.cause or error) from error
        self._deaths = 0
        self.busy[actor] = 0
        self.start(wait=False)
        if machine != ray.get_runtime_context().get_node_id():
            self.away.add(actor)

    def free(self, *, most: int | None = None) -> Any:
        """The actor with the least work, None where all have `most` shards or more."""
        actor = min(self.busy, key=self.busy.__getitem__, default=None)
        return actor if actor is not None and (most is None or self.busy[actor] < most) else None

    def replace(self, actor: Any) -> None:
        """Start a new actor in the place of one that died or hangs."""
        import ray

        del self.busy[actor]
        self.away.discard(actor)
        self._peaks.pop(actor, None)
        ray.kill(actor)
        self._start()

    def release(self, actor: Any, peak: tuple[int, int | None] | None) -> None:
        """Note that an actor is done with a call, and its `fedsam.grid.process.peak_memory` where that is known."""
        self.busy[actor] -= 1
        if peak is not None:
            self._peaks[actor] = peak

    def peak_memory(self) -> tuple[int, int | None]:
        """Over this process and all actors, as last reported: largest peak resident bytes, largest peak GPU bytes."""
        peaks = [peak_memory(), *self._peaks.values()]
        return max(rss for rss, _ in peaks), max((device for _, device in peaks if device is not None), default=None)

    def _start(self) -> None:
        """Start an actor. Raises `KeyboardInterrupt` once the pool was stopped."""
        if self.stopped:
            raise KeyboardInterrupt
        import ray

        self._load_reference = self._load_reference or ray.put(self._load)  # in a list: the actor takes it when it is ready for its imports
        actor: Any = self._kind.remote([self._load_reference], self._cpus, self._supplies, self.memory)
        self.starting[actor.process.remote()] = actor
