"""`fedsam compare`: plan, run and resume the comparison of a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import mean
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from experiments.cli.lost_ray import when_lost
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
    location_settings,
    read_comparison,
)
from experiments.cli.output import (
    FAILED,
    exit_on_divergence,
    exit_on_failure,
    exit_on_unfinished,
    graceful_shutdown_of_runs,
    print_error,
    print_table,
    progress_callback,
    report_outcomes,
)
from fedsam.formatting import duration
from fedsam.wording import ConfigError

if TYPE_CHECKING:
    from experiments.planning.forecast import Forecast
    from experiments.planning.plan import PlannedRun
    from experiments.running.grids import ActorGroup, DatasetCache
    from experiments.running.scheduler import Outcome
    from experiments.tuning.comparison import Comparison

EXAMPLES = (
    "fedsam compare compare --dry-run",
    "fedsam compare compare --parallel 2",
    "fedsam compare quickstart -o 'sweep.seeds=[0, 1, 2]' -o budget=300000 --baseline sgd",
)


def command(
    path: ConfigFile,
    overrides: Overrides = None,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, help="Runs at once, each with its share of the actors; inline: in a process.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, with times from short trials, and stop.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Go on with runs that seem to be at work on another machine: their processes are gone.")
    ] = False,
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

    CONFIG is a file as `fedsam run` takes it. Where it has a table `tune`, the settings named there are tuned first, with as many trials
    for every method; the final runs have the values that the validation examples chose.
    The plan comes first: runs, work, bytes and time, estimated from short trials.
    What was stopped or killed goes on when it is started again: a run with the same settings and seed that has finished or diverged is not
    repeated, one that has not is continued from its latest checkpoint.
    A run that fails is recorded with its error and does not stop the others; the exit code is then 1. A run that another process is at is
    left to it; the exit code is then 3, unless it has ended by the end. A run whose loss or vectors are not finite is stopped and recorded
    as diverged, is not made again, and the exit code is 4 if nothing else is wrong; it is 5 where results or a model could not be written.
    """
    options = location_settings(data_root, runs_dir, ray_address, allow_unauthenticated_cluster)
    experiments, studies = read_comparison(path, overrides, options)
    from experiments.running.grids import DatasetCache
    from experiments.running.scheduler import Outcome
    from experiments.tuning.comparison import Comparison
    from fedsam.data.datasets import DataError

    folder, cache = experiments[0].runs_dir, DatasetCache()
    try:
        comparison = Comparison(experiments, studies, cache)
        planned = comparison.plan()
    except DataError as error:
        print_error(str(error))
        raise typer.Exit(FAILED) from None
    labels = dict.fromkeys(one.label for one in planned)
    if baseline is not None and baseline not in labels:
        raise ConfigError(f"baseline: {baseline!r} is not known; allowed: {'; '.join(labels)}")
    with graceful_shutdown_of_runs(folder):
        planned, outcomes = _carry_out(comparison, planned, cache, parallel, dry_run, restart, quiet, tensorboard)
    if not dry_run:
        new = iter(outcomes)
        every = [Outcome.of(one.concluded_run) if one.concluded_run else next(new) for one in planned]
        ids = [outcome.run_id for outcome in every]
        report_outcomes([run_id for run_id in ids if run_id], folder, baseline=baseline, target_accuracy=target)
        every += dict.fromkeys(comparison.failures())  # each study once
        exit_on_failure(every)
        exit_on_unfinished(ids, folder)
        exit_on_divergence(every)


def _carry_out(
    comparison: Comparison,
    planned: list[PlannedRun],
    cache: DatasetCache,
    parallel: int,
    dry_run: bool,
    restart: bool,
    quiet: bool,
    tensorboard: bool,
) -> tuple[list[PlannedRun], list[Outcome]]:
    """Print the plan unless quiet; then, unless it is a dry run, tune what is to be tuned and make the runs that have not finished.

    Returns:
        The plan with the settings that were chosen, and the outcomes of its runs that had not finished, in order.
    """
    from experiments.callbacks.callback import CallbackList
    from experiments.cli.tuning_output import choices_table, tuning_note
    from experiments.running.grids import actor_groups
    from experiments.running.scheduler import perform

    todo, trials, show_plan = [one for one in planned if one.concluded_run is None], comparison.trials_left, dry_run or not quiet
    forecasts: dict[tuple[str, int], Forecast] = {}
    trial_seconds = None
    with ExitStack() as stack:
        if todo or trials:
            with Console(stderr=True, quiet=not show_plan).status("starting") as status:
                every = [*(one.experiment for one in todo), *trials]
                lost = when_lost(every[0].runs_dir, restarts=True)
                groups = stack.enter_context(actor_groups(every, parallel, cache, status.update, lost))
                status.update("short trials on the actors, to estimate times")
                forecasts = _forecasts(todo, groups[0]) if show_plan else {}
                trial_seconds = _trial_seconds(comparison, groups[0]) if show_plan and trials else None
        seconds = _seconds(todo, forecasts) if forecasts else None
        if show_plan:
            if comparison.studies:
                typer.echo(tuning_note(comparison.studies, trial_seconds, parallel))
            _print_plan(planned, forecasts, seconds, parallel)
        if dry_run or not (todo or trials):
            return planned, []
        with progress_callback(quiet, tensorboard) as callback:
            if trials:
                comparison.tune(groups, callback, restart=restart)
                planned = comparison.plan()
                seconds = None
            if comparison.studies and not quiet:
                print_table(choices_table(comparison.studies))
            todo = [one for one in planned if one.concluded_run is None]
            callback = CallbackList(comparison.record_choices(planned), callback)
            callback.plan([one.experiment for one in todo], seconds)
            return planned, perform([one.checked for one in todo], groups, callback, once=True, restart=restart)


def _forecasts(todo: Sequence[PlannedRun], group: ActorGroup) -> dict[tuple[str, int], Forecast]:
    """A forecast for each method and client count, whose seeds differ little; none where the trial of a client fails."""
    from experiments.planning.forecast import Forecaster
    from strategies.round import RunError

    forecaster, found = Forecaster(group), dict[tuple[str, int], "Forecast"]()
    for (label, clients), checked in {one.key: one.checked for one in reversed(todo)}.items():
        try:
            found[label, clients] = forecaster.forecast(checked)
        except RunError as error:  # the run will fail in the same way, and be recorded
            print_error(f"no forecast of {label} with {clients} clients: {str(error).splitlines()[0]}")
    return found


def _trial_seconds(comparison: Comparison, group: ActorGroup) -> float | None:
    """Seconds of the runs of trials that are left, one after another and unpruned; None where the trial of a client fails."""
    from experiments.planning.forecast import Forecaster
    from experiments.settings.catalogue import check
    from strategies.round import RunError

    forecaster = Forecaster(group)
    try:
        return sum(one.runs_left * forecaster.forecast(check(one.plan.base)).seconds for one in comparison.studies if one.runs_left)
    except RunError:  # the study's final runs have told
        return None


def _seconds(todo: Sequence[PlannedRun], forecasts: Mapping[tuple[str, int], Forecast]) -> list[float]:
    """Seconds of each run; the mean of the others where a run has no forecast."""
    usual = mean(forecast.seconds for forecast in forecasts.values())
    return [forecasts[one.key].seconds if one.key in forecasts else usual for one in todo]


def _print_plan(
    planned: Sequence[PlannedRun], forecasts: Mapping[tuple[str, int], Forecast], seconds: Sequence[float] | None, parallel: int
) -> None:
    from experiments.planning.plan import plan_table, provenance_notes
    from experiments.planning.power_notes import power_notes

    print_table(plan_table(planned, forecasts))
    before = Counter(one.concluded_run.status for one in planned if one.concluded_run)
    counts = [f"{len(planned)} runs, {before['finished']} of them finished before"]
    counts += [f"{before['diverged']} diverged before"] if before["diverged"] else []
    typer.echo("\n".join(["; ".join([", ".join(counts), *provenance_notes(planned)]), *power_notes(planned)]))
    if seconds:
        at_once = f", {parallel} at once" if parallel > 1 else ""
        typer.echo(f"about {duration(sum(seconds) / parallel)} for the others{at_once}")
