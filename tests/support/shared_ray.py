"""One private Ray, and actors, for all tests of a process: to start them takes longer than most of what tests ask of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from flwr.clientapp import ClientApp

from experiments.running import grids
from fedsam.config import Compute
from fedsam.grid.pool import ActorPool
from fedsam.grid.session import ray_session
from tests.support.processes import HANG


def load(make: Callable[[], ClientApp] | None = None, **supplies: Any) -> ClientApp:
    """The app that a test makes, or else ours."""
    return make() if make else grids.load_clients(**supplies)


class SharedRay:
    """Actors that tests borrow, one test or module after another; Ray starts when the first are."""

    def __init__(self) -> None:
        self._session = ExitStack()
        self._actors: list[Any] = []  # up, and at work for nobody
        self._open = False

    def start(self) -> None:
        """Start Ray, unless it runs."""
        if not self._open:
            self._session.enter_context(ray_session(cpus=12, gpus=1))
            self._open = True

    def stop(self) -> None:
        """End Ray, for a test that needs another in this process."""
        self._session.close()
        self._actors, self._open = [], False

    @contextmanager
    def pool(self, actors: int) -> Iterator[ActorPool]:
        """A pool of so many actors; they are returned at the end of the block, those apart that have ended."""
        self.start()
        lent, self._actors = self._actors[:actors], self._actors[actors:]
        pool = ActorPool(load, actors=actors - len(lent))
        pool.busy, lent = dict.fromkeys(lent, 0), [*lent, *pool.starting.values()]  # as the pool may be split
        try:
            yield pool
        finally:
            self._actors += filter(_alive, dict.fromkeys([*lent, *pool.busy, *pool.starting.values()]))

    @contextmanager
    def as_grids(self) -> Iterator[None]:
        """Have `experiments.running.grids` serve runs on these actors."""

        @contextmanager
        def actor_pool(compute: Compute, load: object, lost: object, *, beside: bool) -> Iterator[ActorPool]:
            assert compute.actors and compute.cpus_per_actor == 1 and not compute.gpus_per_actor and not compute.ray_address
            with self.pool(compute.actors) as pool:
                yield pool

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grids, "actor_pool", actor_pool)
            yield


def _alive(actor: Any) -> bool:
    """Whether an actor answers, with nothing left to do; it forgets the app that it has served with. One that hangs is ended."""
    import ray

    try:
        ray.get(actor.supply.remote({"make": ray.put(ClientApp)}), timeout=HANG)
    except ray.exceptions.RayActorError:
        return False
    except ray.exceptions.GetTimeoutError:
        ray.kill(actor)
        return False
    return True
