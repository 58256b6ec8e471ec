"""The plan of a comparison: its runs, those that have finished or diverged already, and a table with forecasts of the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from experiments.analysis import labels
from experiments.analysis.conditions import Condition, conditions, data_text
from experiments.analysis.leaderboard import EntryKey
from experiments.planning.forecast import Forecast
from experiments.running.grids import DatasetCache
from experiments.settings.catalogue import CheckedExperiment, check, experiment_hash
from fedsam.config import ConfigError, Experiment
from fedsam.data.federated import partition_examples
from fedsam.formatting import count, duration, literal, size
from fedsam.results.database import DATABASE_NAME
from fedsam.results.provenance import provenance
from fedsam.results.rows import CONCLUDED, Run
from fedsam.results.store import Results


@dataclass(frozen=True)
class PlannedRun:
    """A run of a comparison.

    Attributes:
        checked: What is run.
        label: The method.
        condition: The number of clients, and the data settings where runs differ in them.
        concluded_run: An earlier run of the same experiment that has finished or diverged; None where it is still to be made.
    """

    checked: CheckedExperiment
    label: str
    condition: Condition
    concluded_run: Run | None

    @property
    def experiment(self) -> Experiment:
        """The experiment that is run."""
        return self.checked.experiment

    @property
    def key(self) -> EntryKey:
        """Label and condition, shared with the runs of other seeds."""
        return self.label, self.condition


def plan(experiments: Sequence[Experiment], cache: DatasetCache, results: Results | None, tuned: Collection[str] = ()) -> list[PlannedRun]:
    """Plan each experiment once, and look up its concluded run in `results`.

    Args:
        tuned: As of `named`.

    Raises:
        ConfigError: A setting of any of them is wrong, or the examples cannot be partitioned over its clients.
        DataError: A dataset cannot be had.
    """
    each = [check(experiment) for experiment in experiments]
    keys = [experiment_hash(checked, cache.get(checked.experiment).digest) for checked in each]
    unique = {(key, checked.experiment.seed): checked for key, checked in zip(keys, each, strict=True)}
    planned = []
    for (key, checked), (name, condition) in zip(unique.items(), named(list(unique.values()), tuned), strict=True):
        dataset = cache.get(checked.experiment)
        runs = results.runs_with_hash(*key, dataset.name) if results else []
        concluded_run = next((run for run in runs if run.status in CONCLUDED), None)
        if concluded_run is None:
            partition_examples(checked.experiment, dataset)
        planned.append(PlannedRun(checked, name, condition, concluded_run))
    return planned


def plan_comparison(experiments: Sequence[Experiment], cache: DatasetCache, tuned: Collection[str] = ()) -> list[PlannedRun]:
    """Plan experiments whose results are, or will be, in one folder.

    Args:
        tuned: As of `named`.

    Raises:
        ConfigError: As `plan`, or the experiments name different folders.
        DataError: A dataset cannot be had.
    """
    folders = sorted({str(experiment.runs_dir) for experiment in experiments})
    if len(folders) != 1:
        raise ConfigError(f"runs_dir: {', '.join(folders) or 'no experiment'} is not allowed: experiments to compare share one folder")
    if not (Path(folders[0]) / DATABASE_NAME).exists():
        return plan(experiments, cache, None, tuned)
    with Results.open(Path(folders[0]), create=False) as results:
        return plan(experiments, cache, results, tuned)


def named(each: Sequence[CheckedExperiment], tuned: Collection[str] = ()) -> list[tuple[str, Condition]]:
    """The label of each method among the others, as in reports, and its condition.

    Args:
        tuned: Settings that are no part of a label where they differ between conditions, by dotted key.
    """
    flat = [labels.flat(checked.settings) for checked in each]
    names = [settings["name"] or settings.get("method", "") for settings in flat]
    return list(zip(labels.method_labels(flat, names, tuned), conditions(flat), strict=True))


def provenance_notes(planned: Sequence[PlannedRun]) -> list[str]:
    """Notes on concluded runs that were made by another commit or with other versions than those of this process."""
    here = provenance()
    runs = [one.concluded_run for one in planned if one.concluded_run]
    commits = sorted({run.git_commit for run in runs} - {here.git_commit})
    versions = {item for run in runs for item in run.versions.items() if item[0] not in run.sources}
    changed = sorted({name for name, version in versions if here.versions.get(name, version) != version})
    notes = [f"some were made by commit {', '.join(commits)}, and this is {here.git_commit}"] if commits else []
    return notes + ([f"some were made with other versions of {', '.join(changed)}"] if changed else [])


def plan_table(planned: Sequence[PlannedRun], forecasts: Mapping[EntryKey, Forecast]) -> Table:
    """The plan for a terminal: a row for each method and condition, with the work and time of one of its runs.

    Args:
        forecasts: Of the rows that have runs to be made.
    """
    groups: defaultdict[EntryKey, list[PlannedRun]] = defaultdict(list)
    for one in planned:
        groups[one.key].append(one)
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 0), header_style="bold")
    result.caption, result.caption_justify = "work and time of one run", "right"
    result.add_column("method", overflow="fold")
    has_data = any(data_text(clients) for _, clients in groups)
    if has_data:
        result.add_column("data", overflow="fold")
    for column in ("clients", "runs", "of them\nended", "rounds", "gradient\nevals", "bytes", "client\ntime", "time"):
        result.add_column(column, justify="right", no_wrap=True)
    for (label, clients), members in groups.items():
        done, forecast = sum(one.concluded_run is not None for one in members), forecasts.get((label, clients))
        cells = _cells(forecast) if forecast else ("–",) * 5
        data = [literal(data_text(clients))] if has_data else []
        result.add_row(literal(label), *data, str(clients), str(len(members)), str(done or ""), *cells)
    return result


def _cells(forecast: Forecast) -> tuple[str, ...]:
    work = forecast.workload
    figures = (count(work.gradient_evaluations), size(work.bytes), duration(forecast.client_seconds), duration(forecast.seconds))
    return str(work.rounds), *(figure.replace(" ", "") for figure in figures)
