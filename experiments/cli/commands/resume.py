"""`fedsam resume`: go on with a run that was stopped, killed or has failed, or extend one that has finished."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.lost_ray import when_lost
from experiments.cli.options import (
    RUNS_DIR,
    AllowOpen,
    DataRoot,
    Overrides,
    Quiet,
    RayAddress,
    RunId,
    RunsDir,
    TensorBoard,
    location_settings,
)
from experiments.cli.output import exit_on_failure, exit_on_unfinished, graceful_shutdown_of_runs, progress_callback, report_runs
from fedsam.grid.process import exempt_from_collection

EXAMPLES = (
    "fedsam resume 20260102-1530",
    "fedsam resume 20260102-1530 --rounds 200",
    "fedsam resume 20260102-1530 -o compute.actors=2",
    "fedsam resume 20260102-1530 --allow-changed torch",
)


def command(
    run: RunId,
    rounds: Annotated[int | None, typer.Option("--rounds", metavar="N", min=1, help="So many rounds in all: extends the run.")] = None,
    overrides: Overrides = None,
    allow_changed: Annotated[
        list[str] | None,
        typer.Option("--allow-changed", metavar="KEY", help="Go on although this setting, or torch, numpy, fedsam or data_files, differs."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Go on although the run seems to be at work on another machine.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
    data_root: DataRoot = None,
    ray_address: RayAddress = None,
    allow_unauthenticated_cluster: AllowOpen = False,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
) -> None:
    """Go on with RUN from its latest checkpoint, or from round 1 if it has none; then print its table and write its report.

    RUN is the id of a run, or how it begins. Rows and final model are those of an undisturbed run. Rounds after the checkpoint are made
    again, and each takes the place of the one that is there once it is whole. What the numbers depend on must be the same: settings, data,
    versions of fedsam, torch and numpy.
    """
    from experiments.planning.resuming import Request, resume
    from fedsam import plugins
    from fedsam.overrides import assigned

    plugins.search(Path.cwd())
    given = {**dict(assigned(text) for text in overrides or ()), "rounds": rounds}
    given |= location_settings(data_root, None, ray_address, allow_unauthenticated_cluster)
    changes = {key: str(value) if isinstance(value, Path) else value for key, value in given.items() if value is not None}
    with progress_callback(quiet, tensorboard) as callback, graceful_shutdown_of_runs(runs_dir):
        outcome = resume(run, runs_dir, Request(changes, allow_changed or (), restart), callback, when_lost(runs_dir, restarts=True))
    ids = [outcome.run_id] if outcome.run_id else []
    exempt_from_collection()
    report_runs(ids, runs_dir)
    exit_on_failure([outcome])
    exit_on_unfinished(ids, runs_dir)
