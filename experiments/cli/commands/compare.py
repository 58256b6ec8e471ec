"""`fedsam compare`: plan, run and resume the comparison of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import mean
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from experiments.cli.options import (
    AllowOpen,
    Baseline,
    ConfigFile,
    DataRoot,
    NewRunsDir,
    Overrides,
    Quiet,
    RayAddress,
    Target,
    TensorBoard,
    places,
    read,
)
from experiments.cli.output import FAILED, callback, complain, end, kept, print_table, show
from experiments.running.progress import duration
from fedsam.config import ConfigError

if TYPE_CHECKING:
    from experiments.planning.forecast import Forecast
    from experiments.planning.plan import Line, Planned
    from experiments.running.grids import ActorGroup, DatasetCache
    from experiments.running.scheduler import Outcome

EXAMPLES = (
    "fedsam compare compare --dry-run",
    "fedsam compare compare --parallel 2",
    "fedsam compare quickstart -o 'sweep.seeds=[0, 1, 2]' -o budget=300000 --baseline sgd",
)


def command(
    path: ConfigFile,
    overrides: Overrides = None,
    parallel: Annotated[int, typer.Option("--parallel", metavar="N", min=1, help="Runs at once, each with its share of the actors.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with times from short trials, and stop.")] = False,
    data_root: DataRoot = None,
    runs_dir: NewRunsDir = None,
    ray_address: RayAddress = None,
    allow_unauthenticated_cluster: AllowOpen = False,
    baseline: Baseline = None,
    target: Target = None,
    quiet: Quiet = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Run the experiments of CONFIG that have not finished yet; then print the table of all and write their report.

    CONFIG is a file as `fedsam run` takes it. The plan comes first: runs, work, bytes and time, estimated from short trials.
    What was stopped or killed goes on when it is started again: a run with the same settings and seed that has finished is not repeated.
    A run that fails is recorded with its error and does not stop the others; the exit code is then 1.
    """
    experiments = read(path, overrides, places(data_root, runs_dir, ray_address, allow_unauthenticated_cluster))
    from experiments.planning.plan import plan_all
    from experiments.running.grids import DatasetCache
    from fedsam.data.datasets import DataError

    folder, cache = experiments[0].runs_dir, DatasetCache()
    try:
        planned = plan_all(experiments, cache)
    except DataError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
    labels = dict.fromkeys(one.label for one in planned)
    if baseline is not None and baseline not in labels:
        raise ConfigError(f"baseline: {baseline!r} is not known; allowed: {'; '.join(labels)}")
    with kept(folder):
        outcomes = _carried_out(planned, cache, parallel, dry_run, quiet, tensorboard)
    if not dry_run:
        made = iter(outcomes)
        ids = [one.found.id if one.found else next(made).run_id for one in planned]
        show([run_id for run_id in ids if run_id], folder, baseline=baseline, target_accuracy=target)
        end(outcomes)


def _carried_out(
    planned: Sequence[Planned], cache: DatasetCache, parallel: int, dry_run: bool, quiet: bool, tensorboard: bool
) -> list[Outcome]:
    """Show the plan, and make the runs that are not found, unless it is a dry run; their outcomes, in order."""
    from experiments.running.grids import actor_groups
    from experiments.running.scheduler import perform

    todo = [one for one in planned if one.found is None]
    experiments, said = [one.experiment for one in todo], dry_run or not quiet
    forecasts: dict[Line, Forecast] = {}
    with ExitStack() as stack:
        if todo:
            with Console(stderr=True, quiet=not said).status("short trials on the actors, to estimate times"):
                groups = stack.enter_context(actor_groups(experiments, parallel, cache))
                forecasts = _forecasts(todo, groups[0]) if said else {}
        usual = mean(ahead.seconds for ahead in forecasts.values()) if forecasts else 0.0
        seconds = [forecasts[one.line].seconds if one.line in forecasts else usual for one in todo] if forecasts else None
        if said:
            _say(planned, forecasts, seconds, parallel)
        if dry_run or not todo:
            return []
        with callback(quiet, tensorboard) as seen:
            seen.plan(experiments, seconds)
            return perform(experiments, groups, seen, once=True)


def _forecasts(todo: Sequence[Planned], group: ActorGroup) -> dict[Line, Forecast]:
    """What a run of each line takes, where a client can be tried; its seeds differ little."""
    from experiments.planning.forecast import Probe
    from strategies.round import RunError

    probe, found = Probe(group), dict[tuple[str, int], "Forecast"]()
    for (label, clients), experiment in {one.line: one.experiment for one in reversed(todo)}.items():
        try:
            found[label, clients] = probe.forecast(experiment)
        except RunError as error:  # the run will fail in the same way, and be recorded
            complain(f"no forecast of {label} with {clients} clients: {str(error).splitlines()[0]}")
    return found


def _say(planned: Sequence[Planned], forecasts: Mapping[Line, Forecast], seconds: Sequence[float] | None, parallel: int) -> None:
    from experiments.planning.plan import made_elsewhere, table

    print_table(table(planned, forecasts))
    found = sum(one.found is not None for one in planned)
    typer.echo("; ".join([f"{len(planned)} runs, {found} of them finished before", *made_elsewhere(planned)]))
    if seconds:
        typer.echo(f"about {duration(sum(seconds) / parallel)} for the others{f', {parallel} at once' if parallel > 1 else ''}")
