"""The Python interface for comparing methods: `fedsam.compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.planning.plan import plan_comparison
from experiments.reporting.report import write_report
from experiments.running.grids import DatasetCache, actor_groups
from experiments.running.progress import Callback
from experiments.running.scheduler import Outcome, perform
from experiments.settings.catalogue import CheckedExperiment
from experiments.settings.presets import expand as expand_method
from experiments.settings.sweep import expand
from fedsam import plugins
from fedsam.config import Experiment
from fedsam.results.store import Results


@dataclass(frozen=True)
class ComparisonResult:
    """The outcomes of a comparison, each experiment once.

    Attributes:
        outcomes: In the order of the experiments; `finished` also if an earlier call made the run.
        runs_dir: Folder of the results.
    """

    outcomes: tuple[Outcome, ...]
    runs_dir: Path

    @property
    def run_ids(self) -> list[str]:
        """Ids of the runs that were started."""
        return [outcome.run_id for outcome in self.outcomes if outcome.run_id]

    def report(self, out: Path | str | None = None, *, baseline: str | None = None, target_accuracy: float | None = None) -> Path:
        """Write the report to a folder, by default below `runs_dir`; return the path of its page. Options are those of `fedsam report`."""
        with Results.open(self.runs_dir, create=False) as results:
            folder = Path(out or self.runs_dir / "reports" / self.run_ids[0])
            return write_report(results, results.find(self.run_ids), folder, baseline, target_accuracy)


def compare(
    experiments: Sequence[Experiment | Mapping[str, Any]] | Mapping[str, Any],
    callback: Callback | None = None,
    *,
    parallel: int = 1,
    restart: bool = False,
) -> ComparisonResult:
    """Run the experiments that have not finished yet; a failed run does not stop the others.

    Args:
        experiments: Experiments, or their plain settings; or settings with a `sweep`, such as a TOML file has.
        parallel: Runs at once, each with its share of the actors.
        restart: Make runs again that seem to be at work on another machine; default: leave those to it, with the outcome `skipped`.

    Raises:
        ConfigError: A setting of any of them is wrong; nothing has started.
        DataError: A dataset cannot be had.
    """
    plugins.refresh()
    if isinstance(experiments, Mapping):
        each = expand(experiments)
    else:
        each = [one if isinstance(one, Experiment) else expand_method(one) for one in experiments]
    callback, cache = callback or Callback(), DatasetCache()
    planned = plan_comparison(each, cache)
    todo = [one.checked for one in planned if one.finished_run is None]
    made = iter(_made(todo, cache, callback, parallel, restart))
    outcomes = tuple(Outcome(one.finished_run.id, "finished") if one.finished_run else next(made) for one in planned)
    return ComparisonResult(outcomes, planned[0].experiment.runs_dir)


def _made(todo: Sequence[CheckedExperiment], cache: DatasetCache, callback: Callback, parallel: int, restart: bool) -> list[Outcome]:
    if not todo:
        return []
    experiments = [checked.experiment for checked in todo]
    callback.plan(experiments)
    with actor_groups(experiments, parallel, cache) as groups:
        return perform(todo, groups, callback, once=True, restart=restart)
