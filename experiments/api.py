"""The Python interface for several runs: `fedsam.compare`, `fedsam.sweep`, `fedsam.report`, `fedsam.figures` and `fedsam.rounds`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.analysis.comparison import compare_runs
from experiments.analysis.labels import labels
from experiments.callbacks.callback import Callback, CallbackList
from experiments.callbacks.progress import shown
from experiments.planning.plan import PlannedRun
from experiments.reporting.figure_list import report_figures
from experiments.reporting.report import write_report
from experiments.running.grids import ActorGroup, DatasetCache, actor_groups
from experiments.running.result import Result
from experiments.running.scheduler import Outcome, perform
from experiments.settings.presets import expand as expand_method
from experiments.settings.sweep import expand
from experiments.tuning.comparison import Comparison
from experiments.tuning.settings import expand_tuned
from fedsam import plugins
from fedsam.config import ConfigError, Experiment
from fedsam.formatting import plural
from fedsam.results.rows import Run, as_table
from fedsam.results.store import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ComparisonResult:
    """The outcomes of a comparison, each experiment once.

    Attributes:
        outcomes: In the order of the experiments; `finished` and `diverged` also if an earlier call made the run.
        runs_dir: Folder of the results.
    """

    outcomes: tuple[Outcome, ...]
    runs_dir: Path

    def __repr__(self) -> str:
        counts = Counter(outcome.status for outcome in self.outcomes)
        ended = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"ComparisonResult({plural(len(self.outcomes), 'run')}: {ended}; runs_dir={str(self.runs_dir)!r})"

    @property
    def run_ids(self) -> list[str]:
        """Ids of the runs that were started."""
        return [outcome.run_id for outcome in self.outcomes if outcome.run_id]

    def report(self, out: Path | str | None = None, *, baseline: str | None = None, target_accuracy: float | None = None) -> Path:
        """Write the report to a folder, by default below `runs_dir`; return the path of its page. Options are those of `fedsam report`."""
        return report(self.run_ids, self.runs_dir, out, baseline=baseline, target_accuracy=target_accuracy)


def sweep(settings: Mapping[str, Any]) -> list[Experiment]:
    """The experiments of settings with a `sweep`, such as a TOML file has. Raises `ConfigError` where a setting of any is wrong."""
    return expand(settings)


def report(
    runs: Sequence[str | Result],
    runs_dir: Path | str = "runs",
    out: Path | str | None = None,
    *,
    baseline: str | None = None,
    target_accuracy: float | None = None,
) -> Path:
    """Write the report of runs to a folder, by default below `runs_dir`; return the path of its page. Options are those of `fedsam report`.

    Args:
        runs: Results of `run`, or ids of runs, or how they begin.

    Raises:
        ConfigError: A run is not known, no method is called like the baseline, or the target is no fraction.
        ReportError: Figures could not be drawn; everything else is written.
    """
    with Results.open(runs_dir, create=False) as results:
        found = _found(results, runs)
        return write_report(results, found, Path(out or Path(runs_dir) / "reports" / found[0].id), baseline, target_accuracy)


def figures(runs: Sequence[str | Result], runs_dir: Path | str = "runs", *, baseline: str | None = None) -> dict[str, Figure]:
    """The figures of a report as objects of matplotlib, by the names of their files; arguments and errors as of `report`."""
    with Results.open(runs_dir, create=False) as results:
        comparison = compare_runs(results, _found(results, runs), baseline)
        return {one.name: one.draw() for one in report_figures(comparison)}


def rounds(runs: Sequence[str | Result] | None = None, runs_dir: Path | str = "runs") -> list[dict[str, Any]]:
    """A dict for each round of the runs, as `pandas.DataFrame` takes them: run, method, number of clients, seed, costs and measures.

    Args:
        runs: As of `report`; default: all but the trials of tuning.

    Raises:
        ConfigError: A run is not known, or there is no results file.
    """
    with Results.open(runs_dir, create=False) as results:
        trials = results.trial_runs()
        found = [run for run in results.runs() if run.id not in trials] if runs is None else _found(results, runs)
        names = labels(found, results.tuned_settings([run.id for run in found]))
        return [
            {"run": run.id, "method": names[run.id], "clients": run.clients, "seed": run.seed, **row}
            for run in found
            for row in as_table(results.rounds(run.id, clients=False))
        ]


def _found(results: Results, runs: Sequence[str | Result]) -> list[Run]:
    """The runs that are given. Raises `ConfigError` where one is not known, or none is given."""
    found = results.find([one if isinstance(one, str) else one.run_id for one in runs])
    if not found:
        raise ConfigError("runs: at least one must be given")
    return found


def compare(
    experiments: Sequence[Experiment | Mapping[str, Any]] | Mapping[str, Any],
    callback: Callback | None = None,
    *,
    parallel: int = 1,
    restart: bool = False,
) -> ComparisonResult:
    """Run the experiments that have not finished or diverged yet, each from its latest checkpoint; a failed run does not stop the others.

    Args:
        experiments: Experiments, or their plain settings; or settings with a `sweep`, such as a TOML file has. Where those have a table
            `tune`, the methods are tuned before the final runs.
        callback: Is told of rounds; default: shows progress in a terminal or notebook. A plain `Callback` does nothing.
        parallel: Runs at once, each with its share of the actors, or on the inline grid in a process of its own.
        restart: Go on with runs that seem to be at work on another machine; default: leave those to it, with the outcome `skipped`.

    Raises:
        ConfigError: A setting of any of them is wrong; nothing has started.
        DataError: A dataset cannot be had.
    """
    plugins.refresh()
    if isinstance(experiments, Mapping):
        each, studies = expand_tuned(experiments)
    else:
        each, studies = [one if isinstance(one, Experiment) else expand_method(one) for one in experiments], []
    cache = DatasetCache()
    comparison = Comparison(each, studies, cache)
    planned = comparison.plan()
    todo = [one.experiment for one in planned if one.concluded_run is None] + comparison.trials_left
    with ExitStack() as stack:
        progress = stack.enter_context(shown(callback))
        groups = stack.enter_context(actor_groups(todo, parallel, cache, progress.phase)) if todo else []
        if comparison.trials_left:
            comparison.tune(groups, progress, restart=restart)
            planned = comparison.plan()
        made = iter(_made(planned, groups, CallbackList(comparison.record_choices(planned), progress), restart))
    outcomes = [Outcome.of(one.concluded_run) if one.concluded_run else next(made) for one in planned]
    return ComparisonResult((*outcomes, *comparison.failures()), each[0].runs_dir)


def _made(planned: Sequence[PlannedRun], groups: Sequence[ActorGroup], callback: Callback, restart: bool) -> list[Outcome]:
    todo = [one.checked for one in planned if one.concluded_run is None]
    if not todo:
        return []
    callback.plan([checked.experiment for checked in todo])
    return perform(todo, groups, callback, once=True, restart=restart)
