"""Tuning as the results keep it: studies, their trials, and the runs that were made with what a study chose."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fedsam.results.database import transaction
from fedsam.results.ownership import OwnedResults
from fedsam.wording import is_number

METRICS: Mapping[str, bool] = {"validation_accuracy": True, "validation_loss": False}  # whether more is better
EDGE_SHARE = 0.05  # of a range, at each of its ends


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Settings that a study tried.

    Attributes:
        number: From 1, in the order in which they were tried.
        parameters: What was tried, by dotted key.
        runs: Ids of its runs, one for each seed of trials; fewer while it is made, and one alone where it was pruned.
        value: Mean of the study's metric over the runs: a fraction, or nats. 0 and infinity where a run diverged; where the
            trial was pruned, what it had come to by then; None until it has ended.
        pruned: Whether it was stopped early because it was worse than the median of those before it.
    """

    number: int
    parameters: Mapping[str, Any]
    runs: tuple[str, ...]
    value: float | None
    pruned: bool


@dataclass(frozen=True, kw_only=True)
class Study:
    """The tuning of one line of a comparison, or of several lines that share it.

    Attributes:
        id: Hash of what decides its choice.
        label: The method and its number of clients.
        settings: `trials` (how many there are to be), `sampler`, `metric`, `seed`, `seeds`, `pruning`, `rounds` or `budget` of a trial, and
            `space`: by dotted key a table of `low`, `high` and `log`, or a list of values.
        trials: Those that have begun, in order.
        runs: Ids of the runs that were made with its choice.
    """

    id: str
    label: str
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    runs: tuple[str, ...] = ()

    @property
    def chosen(self) -> Trial | None:
        """The best trial so far, of equal ones the earliest; None where none has gone to its end, or all of those diverged."""
        return best(self.trials, self.settings["metric"])

    @property
    def edges(self) -> list[str]:
        """The keys whose chosen value lies at an end of what was allowed, so that a better one may lie outside."""
        chosen = self.chosen.parameters if self.chosen else {}
        return [key for key, value in chosen.items() if at_edge(self.settings["space"][key], value)]


def best(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The best of trials that went to their end, of equal ones the earliest; None where there is none, or all of them diverged."""
    ended = [(trial.value, trial) for trial in trials if trial.value is not None and not trial.pruned and trial.value != worst(metric)]
    sign = -1 if METRICS[metric] else 1
    return min(ended, key=lambda one: sign * one[0], default=(None, None))[1]


def worst(metric: str) -> float:
    """The value of a trial that diverged: no right answer, or an infinite loss."""
    return 0.0 if METRICS[metric] else math.inf


def at_edge(allowed: Mapping[str, Any] | Sequence[Any], chosen: Any) -> bool:
    """Whether a value lies in the outermost twentieth of a range, or is the first or last of more than two numbers.

    >>> at_edge({"low": 0.01, "high": 1.0, "log": True}, 0.012), at_edge({"low": 0.01, "high": 1.0, "log": True}, 0.02)
    (True, False)
    >>> at_edge([16, 32, 64], 64), at_edge([16, 32], 32)
    (True, False)
    """
    if not isinstance(allowed, Mapping):
        return len(allowed) > 2 and is_number(chosen) and chosen in (allowed[0], allowed[-1])
    low, high, value = (math.log(one) if allowed["log"] else one for one in (allowed["low"], allowed["high"], chosen))
    return not EDGE_SHARE < (value - low) / (high - low) < 1 - EDGE_SHARE


class TuningResults(OwnedResults):
    """The open results file, with its studies."""

    def record_study(self, study: str, label: str, settings: Mapping[str, Any]) -> None:
        """Add a study, unless it is there."""
        with transaction(self._connection) as connection:
            connection.execute("INSERT OR IGNORE INTO studies VALUES (?, ?, ?)", (study, label, json.dumps(settings, default=str)))

    def record_trial(
        self, study: str, number: int, run: str, parameters: Mapping[str, Any], value: float | None = None, *, pruned: bool = False
    ) -> None:
        """Note that a run is one of a trial, or what it came to.

        Args:
            value: Of this run; None while it is made.
            pruned: Whether the trial was stopped at this run.
        """
        with transaction(self._connection) as connection:
            columns = (study, number, run, json.dumps(parameters, default=str), value, pruned)
            connection.execute(
                "INSERT OR REPLACE INTO trials (study, number, run, parameters, value, pruned) VALUES (?, ?, ?, ?, ?, ?)", columns
            )

    def record_tuned(self, run: str, study: str) -> None:
        """Note that a run is made with what a study chose."""
        with transaction(self._connection) as connection:
            connection.execute("INSERT OR IGNORE INTO tuned VALUES (?, ?)", (run, study))

    def studies(self, runs: Sequence[str]) -> list[Study]:
        """The studies by whose choices these runs were made, in the order of the runs, each once."""
        return self._studies("tuned", runs)

    def studies_of_trials(self, runs: Sequence[str]) -> list[Study]:
        """The studies that these runs are trials of, in the order of the runs, each once."""
        return self._studies("trials", runs)

    def tuned_settings(self, runs: Sequence[str]) -> set[str]:
        """The settings by dotted key that were tuned for any of these runs."""
        return {key for study in self.studies(runs) for key in study.settings["space"]}

    def _studies(self, table: str, runs: Sequence[str]) -> list[Study]:
        of_run: defaultdict[str, list[str]] = defaultdict(list)
        for run, study in self._select(f"SELECT DISTINCT run, study FROM {table} ORDER BY study"):
            of_run[run].append(study)
        return [self.study(study) for study in dict.fromkeys(study for run in runs for study in of_run[run])]

    def study(self, study: str) -> Study:
        """The study with this id, which must be there."""
        ((label, text),) = self._select("SELECT label, settings FROM studies WHERE id = ?", (study,))
        settings = json.loads(text)
        of_trial: defaultdict[int, list[Any]] = defaultdict(list)
        query = (
            "SELECT number, run, parameters, value, pruned FROM trials JOIN runs ON run = id WHERE study = ? ORDER BY number, runs.rowid"
        )
        for entry in self._select(query, (study,)):
            of_trial[entry["number"]].append(entry)
        trials = tuple(_trial(number, entries, len(settings["seeds"])) for number, entries in of_trial.items())
        runs = tuple(run for (run,) in self._select("SELECT run FROM tuned WHERE study = ? ORDER BY run", (study,)))
        return Study(id=study, label=label, settings=settings, trials=trials, runs=runs)


def _trial(number: int, entries: Sequence[Any], seeds: int) -> Trial:
    """A trial from its entries, one for each run."""
    values, pruned = [entry["value"] for entry in entries], any(entry["pruned"] for entry in entries)
    ended = None not in values and (pruned or len(values) == seeds)
    return Trial(
        number=number,
        parameters=json.loads(entries[0]["parameters"]),
        runs=tuple(entry["run"] for entry in entries),
        value=fmean(values) if ended else None,
        pruned=pruned,
    )
