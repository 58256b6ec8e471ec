"""What a comparison will take, before it starts: its runs, which of them are there already, and estimates of work, bytes and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.analysis import labels
from experiments.analysis.format import count, duration, size
from experiments.planning.forecast import Forecast
from experiments.running.grids import DatasetCache
from experiments.settings.catalogue import resolved, sources
from fedsam.config import ConfigError, Experiment
from fedsam.data.federated import partition_examples
from fedsam.results.config_hash import config_hash
from fedsam.results.database import DATABASE_NAME
from fedsam.results.provenance import source_hashes, provenance
from fedsam.results.rows import Run
from fedsam.results.store import Results

Line = tuple[str, int]  # method and clients


@dataclass(frozen=True)
class Planned:
    """An experiment of a comparison.

    Attributes:
        plain: Its settings, the defaults of its parts included.
        label: What its method is called.
        found: Its run, where one has finished.
    """

    experiment: Experiment
    plain: Mapping[str, Any]
    label: str
    found: Run | None

    @property
    def line(self) -> Line:
        """The line of the plan that it belongs to, with its other seeds."""
        return self.label, self.experiment.data.clients


def plan(experiments: Sequence[Experiment], cache: DatasetCache, results: Results | None) -> list[Planned]:
    """The experiments, each once, with their runs in `results` that have finished.

    Raises:
        ConfigError: A setting of any of them is wrong, or the examples cannot be dealt to its clients.
        DataError: A dataset cannot be had.
    """
    plains = [resolved(experiment) for experiment in experiments]
    hashes = [source_hashes(sources(experiment), cache.get(experiment).digest) for experiment in experiments]
    keys = list(map(config_hash, plains, hashes))
    once = {(key, e.seed): (e, plain) for key, e, plain in zip(keys, experiments, plains, strict=True)}
    names = _labels([plain for _, plain in once.values()])
    planned = []
    for (key, (experiment, plain)), name in zip(once.items(), names, strict=True):
        dataset = cache.get(experiment)
        runs = results.runs_with_hash(*key, dataset.name) if results else []
        found = next((run for run in runs if run.status == "finished"), None)
        if found is None:
            partition_examples(experiment, dataset)
        planned.append(Planned(experiment, plain, name, found))
    return planned


def plan_all(experiments: Sequence[Experiment], cache: DatasetCache) -> list[Planned]:
    """As `plan`, with the results in the folder that the experiments name, where it has any.

    Raises:
        ConfigError: Also where they name different folders.
    """
    folders = sorted({str(experiment.runs_dir) for experiment in experiments})
    if len(folders) != 1:
        raise ConfigError(f"runs_dir: {', '.join(folders) or 'no experiment'} is not allowed: experiments to compare share one folder")
    if not (Path(folders[0]) / DATABASE_NAME).exists():
        return plan(experiments, cache, None)
    with Results.open(Path(folders[0]), create=False) as results:
        return plan(experiments, cache, results)


def _labels(plains: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each method is called among the others, as in reports."""
    flat = [labels.flat(plain) for plain in plains]
    names = [settings["name"] or settings.get("method", "") for settings in flat]
    return [
        labels.label(s, [f for f, other in zip(flat, names, strict=True) if other == name], name)
        for s, name in zip(flat, names, strict=True)
    ]


def made_elsewhere(planned: Sequence[Planned]) -> list[str]:
    """Notes on finished runs that other code or other versions made than what runs here."""
    here = provenance()
    runs = [one.found for one in planned if one.found]
    commits = sorted({run.git_commit for run in runs} - {here.git_commit})
    versions = {item for run in runs for item in run.versions.items() if item[0] not in run.sources}
    changed = sorted({name for name, version in versions if here.versions.get(name) != version})
    notes = [f"some were made by commit {', '.join(commits)}, and this is {here.git_commit}"] if commits else []
    return notes + ([f"some were made with other versions of {', '.join(changed)}"] if changed else [])


def table(planned: Sequence[Planned], forecasts: Mapping[Line, Forecast]) -> Table:
    """The plan for a terminal: a line for each method and client count, with what one of its runs takes.

    Args:
        forecasts: Of the lines that have runs to be made.
    """
    lines: defaultdict[Line, list[Planned]] = defaultdict(list)
    for one in planned:
        lines[one.line].append(one)
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 0), header_style="bold")
    result.caption, result.caption_justify = "work and time of one run", "right"
    result.add_column("method", overflow="fold")
    for column in ("clients", "runs", "of them\nfinished", "rounds", "gradient\nevals", "bytes", "client\ntime", "time"):
        result.add_column(column, justify="right", no_wrap=True)
    for (label, clients), members in lines.items():
        done, ahead = sum(one.found is not None for one in members), forecasts.get((label, clients))
        cells = _cells(ahead) if ahead else ("–",) * 5
        result.add_row(escape(label), str(clients), str(len(members)), str(done or ""), *cells)
    return result


def _cells(ahead: Forecast) -> tuple[str, ...]:
    load = ahead.load
    figures = (count(load.gradient_evaluations), size(load.size), duration(ahead.client_seconds), duration(ahead.seconds))
    return str(load.rounds), *(figure.replace(" ", "") for figure in figures)
