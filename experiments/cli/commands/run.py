"""`fedsam run`: run the experiments of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.lost_ray import when_lost
from experiments.cli.options import (
    AllowOpen,
    ConfigFile,
    DataRoot,
    NewRunsDir,
    Overrides,
    Quiet,
    RayAddress,
    TensorBoard,
    location_settings,
    read_comparison,
    read_experiments,
    read_settings,
)
from experiments.cli.output import (
    exit_on_divergence,
    exit_on_failure,
    exit_on_unfinished,
    graceful_shutdown_of_runs,
    progress_callback,
    report_outcomes,
)
from experiments.settings.toml import toml

if TYPE_CHECKING:
    from fedsam.config import Experiment

EXAMPLES = (
    "fedsam run quickstart",
    "fedsam run quickstart -o client.optimizer.name=sam -o client.optimizer.rho=0.1 -o data.clients=50",
    "fedsam run quickstart -o 'sweep.seeds=[0, 1, 2]'",
    "fedsam run quickstart --print-config > resolved.toml",
    "fedsam run quickstart --tensorboard",
    "fedsam run quickstart --ray-address auto",
)


def command(
    path: ConfigFile,
    overrides: Overrides = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the full settings, defaults included, and stop.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with runs of the same settings that did not finish, and leave out those that did.")
    ] = False,
    data_root: DataRoot = None,
    runs_dir: NewRunsDir = None,
    ray_address: RayAddress = None,
    allow_unauthenticated_cluster: AllowOpen = False,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
) -> None:
    """Run the experiments of CONFIG, then print their table and write a report.

    CONFIG is a TOML file of settings; what it leaves out has a default, and its table `sweep` makes it several experiments.
    Every setting is checked before anything starts. Each finished round is kept at once: Ctrl-C loses only the current one, and `fedsam
    resume` goes on with it.
    A run whose loss or vectors are not finite is stopped; the exit code is then 4. It is 1 where a run failed, and 5
    where its results or its model could not be written, as on a full disk.
    """
    options = location_settings(data_root, runs_dir, ray_address, allow_unauthenticated_cluster)
    if print_config:
        _print_settings(read_comparison(path, overrides, options)[0], read_settings(path, overrides, options)[0].get("tune"))
        return
    experiments = read_experiments(path, overrides, options)
    from experiments.running.scheduler import run_all

    folder = experiments[0].runs_dir
    with progress_callback(quiet, tensorboard) as callback, graceful_shutdown_of_runs(folder):
        outcomes = run_all(experiments, callback, once=resume, lost=when_lost(folder, restarts=resume))
    ids = [outcome.run_id for outcome in outcomes if outcome.run_id]
    report_outcomes(ids, folder)
    exit_on_failure(outcomes)
    exit_on_unfinished(ids, folder)
    exit_on_divergence(outcomes)


def _print_settings(experiments: Sequence[Experiment], tune: Mapping[str, Any] | None) -> None:
    from experiments.settings.resolved import resolve
    from experiments.settings.sweep import as_sweep

    settings = as_sweep([resolve(experiment) or _checked(experiment) for experiment in experiments])
    text = toml(settings | ({"tune": tune} if tune else {}))
    typer.echo(f"# {len(experiments)} runs\n{text}" if len(experiments) > 1 else text)


def _checked(experiment: Experiment) -> dict[str, Any]:
    from experiments.settings.catalogue import resolved  # imports torch

    return resolved(experiment)
