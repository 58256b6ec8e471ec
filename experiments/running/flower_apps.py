"""Running any Flower app on our grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.app import Context, RecordDict

from experiments.callbacks.app_progress import AppProgress
from experiments.running.actors import actor_pool, check_cpus
from fedsam.config import Compute
from fedsam.grid.base import LocalGrid
from fedsam.grid.flower_app import DEFAULT_SUPERNODES, FlowerApp
from fedsam.grid.inline import InlineGrid
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.synchronized import SynchronizedGrid
from fedsam.messages.flower_private import random_run


def run(
    app: FlowerApp,
    compute: Compute,
    supernodes: int | None = None,
    halts: list[Callable[[], None]] | None = None,
    progress: AppProgress | None = None,
) -> Context:
    """Run an app's ServerApp in this process and its ClientApp where `compute` says; gives the ServerApp's context after it.

    Node ids are 1 to `supernodes`, so that an app that seeds its generators samples the same nodes every time.

    Args:
        supernodes: Number of nodes; default: what the app's pyproject.toml asks for, or else Flower's default.
        halts: A function is appended that interrupts the app's threads that wait for clients, as those of Flower's older strategies.

    Raises:
        ConfigError: Settings ask for more than there is, or the app cannot be loaded.
    """
    nodes = supernodes or app.supernodes or DEFAULT_SUPERNODES
    if progress and not (supernodes or app.supernodes):
        progress.say(f"{nodes} nodes, Flower's default, as the app does not say how many; --num-supernodes does")
    with grid_of(app, compute, nodes) as grid:
        if halts is not None and isinstance(grid, RayGrid):
            halts.append(grid.pool.stop)
        if progress:
            grid.callback, grid.warn = progress, progress.say
        return serve(app, grid)


def serve(app: FlowerApp, grid: LocalGrid) -> Context:
    """Run an app's ServerApp in this process on a grid that has its ClientApp; gives the ServerApp's context after it."""
    context = Context(run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config=dict(app.run_config))
    app.load_server()(SynchronizedGrid(grid), context)
    grid.finish()
    return context


@contextmanager
def grid_of(app: FlowerApp, compute: Compute, nodes: int) -> Iterator[LocalGrid]:
    """A grid of `nodes` nodes that have the app's ClientApp; its run has an id of its own."""
    if compute.grid == "inline":
        check_cpus(compute)
        grid: LocalGrid = InlineGrid(app.load_client, nodes, app.run_config, compute.cpus_per_actor)
        grid.set_run(random_run())
        yield grid
        return
    with actor_pool(compute, app.load_client) as pool:
        pool.supply()
        grid = RayGrid(pool, nodes, app.run_config)
        grid.set_run(random_run())
        yield grid
