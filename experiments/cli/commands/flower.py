"""`fedsam flower`: run any Flower app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import AllowOpen, RayAddress
from experiments.cli.output import graceful_shutdown

EXAMPLES = (
    "fedsam flower path/to/app",
    "fedsam flower path/to/app --run-config 'num-server-rounds=5 learning-rate=0.05' --num-supernodes 100",
    "fedsam flower path/to/app --grid inline   # a breakpoint in a client works",
    "fedsam flower path/to/app --gpus-per-actor 0.25",
)


def command(
    folder: Annotated[Path, typer.Argument(metavar="APP_DIR", show_default=False)],
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", metavar="K=V...", help="Change the app's run config, or give a TOML file; repeat for more."),
    ] = None,
    supernodes: Annotated[
        int | None,
        typer.Option("--num-supernodes", "-n", min=1, help="Number of clients; default: the app's options.num-supernodes, or 2."),
    ] = None,
    actors: Annotated[int | None, typer.Option("--actors", help="Ray actors; default: one per physical core, or per GPU share.")] = None,
    cpus_per_actor: Annotated[int, typer.Option("--cpus-per-actor", help="CPUs, and so torch threads, of an actor.")] = 1,
    gpus_per_actor: Annotated[float, typer.Option("--gpus-per-actor", help="GPU share of an actor, fractions allowed.")] = 0.0,
    grid: Annotated[str, typer.Option("--grid", help="ray: actors; inline: this process, for debugging.")] = "ray",
    ray_address: RayAddress = None,
    allow_unauthenticated_cluster: AllowOpen = False,
) -> None:
    """Run the unmodified Flower app in APP_DIR: its ServerApp in this process, its clients on Ray actors.

    APP_DIR holds a pyproject.toml with the tables of Flower apps. The app and what it imports must be installed here, or lie in APP_DIR.
    Clients have the node ids 1, 2, ...: an app whose server and clients seed what they draw gives the same numbers every time.
    """
    settings = {
        "grid": grid,
        "actors": actors,
        "cpus_per_actor": cpus_per_actor,
        "gpus_per_actor": gpus_per_actor,
        "ray_address": ray_address,
        "allow_unauthenticated_cluster": allow_unauthenticated_cluster,
    }
    from fedsam.config import Compute, validated

    compute = validated(Compute, settings, "compute")
    from rich.console import Console

    from experiments.callbacks.app_progress import AppProgress
    from experiments.running.flower_apps import run
    from fedsam.grid.flower_app import FlowerApp

    app = FlowerApp.read(folder, run_config or ())
    with graceful_shutdown("interrupted; Ray is stopped") as stop_functions, AppProgress(Console(stderr=True)) as progress:
        run(app, compute, supernodes, stop_functions, progress)
