"""Runs that may be compared with each other, of all that a database holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from experiments.analysis.labels import comparable_text, labels
from fedsam.config import ConfigError
from fedsam.results.rows import Run
from fedsam.results.store import Results


def comparable(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by what they must share to be compared, in words: the dataset, its examples and the length of a run."""
    found: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        settings = run.config
        found[comparable_text(run.dataset, settings["data"].get("examples"), settings.get("budget"), settings["rounds"])].append(run)
    return dict(found)


def baselines(groups: Mapping[str, Sequence[Run]], baseline: str | None, results: Results) -> dict[str, str | None]:
    """The baseline of each group: the label given, where the group has such a method. Raises `ConfigError` where no group has it."""
    known = {title: set(labels(runs, results.tuned_settings([run.id for run in runs])).values()) for title, runs in groups.items()}
    every = sorted(set[str]().union(*known.values()))
    if baseline is not None and baseline not in every:
        raise ConfigError(f"baseline: {baseline!r} is not known; allowed: {'; '.join(every)}")
    return {title: baseline if baseline in found else None for title, found in known.items()}
