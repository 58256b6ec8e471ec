"""One study: its trials one after another, each from the rows of its runs, which are made where they are not there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from experiments.running.grids import DatasetCache
from experiments.running.judging import Judge
from experiments.running.scheduler import Outcome
from experiments.settings.catalogue import CheckedExperiment, check, experiment_hash
from experiments.tuning.grid import number_of_trials
from experiments.tuning.settings import StudyPlan
from fedsam.results.database import DATABASE_NAME
from fedsam.results.final import final_measures, is_evaluated
from fedsam.results.model_files import FINAL_MODEL_NAME
from fedsam.results.rows import CONCLUDED, Row, Run
from fedsam.results.store import Results
from fedsam.results.tuning import METRICS, Study, Trial, best, worst

if TYPE_CHECKING:
    from experiments.tuning.sampling import OpenTrial


@dataclass(frozen=True)
class TrialRun:
    """A run of a trial that is to be made.

    Attributes:
        checked: Its experiment.
        title: What it is called in progress.
        judge: Of its rounds; None: it goes to its end.
        started: To be told its id once it has begun.
    """

    checked: CheckedExperiment
    title: str
    judge: Judge | None
    started: Callable[[str], None]


class StudyError(Exception):
    """A study cannot go on: a run of a trial failed, or another process is at it."""


Make = Callable[[TrialRun], Outcome]


class StudyRunner:
    """A study with what is known of it so far; it goes on from there.

    Args:
        label: Method and number of clients.
        cache: The datasets.
        make: Makes a run of a trial; None: none is made, and the study ends with the first trial that is not there.
        record: Whether the study and its trials are noted in the results, as they are where runs are made.
    """

    def __init__(self, plan: StudyPlan, label: str, cache: DatasetCache, make: Make | None = None, *, record: bool = False) -> None:
        self._plan, self._label, self._cache, self._make, self._record = plan, label, cache, make, record or make is not None
        self._trials: list[Trial] = []

    def run(self) -> Study:
        """The study with its trials: all of them where their runs can be made.

        Raises:
            StudyError: A run of a trial failed, or another process is at it. What was found so far is kept.
            ConfigError: A trial is not a valid experiment.
        """
        folder = self._plan.base.runs_dir
        if not self._record and not (Path(folder) / DATABASE_NAME).exists():
            return self.study()
        from experiments.tuning.sampling import Sampler  # imports optuna

        sampler = Sampler(self._plan)
        with Results.open(folder, create=self._record) as results:
            if self._record:
                results.record_study(self._plan.id, self._label, self.study().settings)
            while len(self._trials) < sampler.trials:
                suggested = sampler.ask()
                trial = self._trial(results, suggested)
                if trial is None:
                    break
                assert trial.value is not None
                suggested.tell(trial.value, pruned=trial.pruned)
                self._trials.append(trial)
        return self.study()

    def study(self) -> Study:
        """The study with the trials that are told so far."""
        settings = {**self._plan.settings, "trials": number_of_trials(self._plan)}
        return Study(id=self._plan.id, label=self._label, settings=settings, trials=tuple(self._trials))

    def _trial(self, results: Results, suggested: OpenTrial) -> Trial | None:
        """A trial from its runs, which are made if need be and possible; None where one is missing."""
        number, ends = len(self._trials) + 1, list[_End]()
        for place, seed in enumerate(self._plan.tuning.seeds):
            checked = check(self._plan.trial(suggested.parameters, seed))
            judge = suggested.judge(checked.experiment) if place == 0 and self._plan.tuning.pruning else None
            end = self._found(results, checked, judge)
            if end is None:
                if self._make is None:
                    return None
                end = self._made(self._make, results, checked, judge, number, suggested)
            if self._record:
                results.record_trial(self._plan.id, number, end.run, suggested.parameters, end.value, pruned=end.pruned)
            ends.append(end)
            if end.pruned:
                break
        value = fmean(end.value for end in ends)
        return Trial(
            number=number, parameters=suggested.parameters, runs=tuple(end.run for end in ends), value=value, pruned=ends[-1].pruned
        )

    def _made(
        self, make: Make, results: Results, checked: CheckedExperiment, judge: Judge | None, number: int, suggested: OpenTrial
    ) -> _End:
        """How a run ended that had to be made. Raises `StudyError` where it did not come to an end."""

        def started(run: str) -> None:
            with Results.open(results.path.parent) as own:  # in the thread that calls
                own.record_trial(self._plan.id, number, run, suggested.parameters)

        outcome = make(TrialRun(checked, self._title(number), judge, started))
        if outcome.run_id:
            (results.path.parent / outcome.run_id / FINAL_MODEL_NAME).unlink(missing_ok=True)  # nobody asks for the models of trials
        end = self._found(results, checked, judge)
        if end is None:
            raise StudyError(f"trial {number} of {self._label}: {outcome.error or f'run {outcome.run_id} {outcome.status}'}")
        return end

    def _title(self, number: int) -> str:
        leading = best(self._trials, self._plan.tuning.metric)
        so_far = "" if leading is None or leading.value is None else f", best {value_text(leading.value, self._plan.tuning.metric)}"
        return f"tuning {self._label}: trial {number}/{number_of_trials(self._plan)}{so_far}"

    def _found(self, results: Results, checked: CheckedExperiment, judge: Judge | None) -> _End | None:
        """How the run of an experiment ended that need not be made or go on: it has concluded, or a judge would end it where one has."""
        dataset, metric = self._cache.get(checked.experiment), self._plan.tuning.metric
        key = experiment_hash(checked, dataset.digest), checked.experiment.seed
        for run in results.runs_with_hash(*key, dataset.name):
            if run.status not in (*CONCLUDED, "pruned"):
                continue
            rows = results.rounds(run.id, clients=False)
            judged = [row for row in rows if is_evaluated(row)]
            if run.status == "diverged":
                judged = judged[:-1]  # its run was stopped before a judge was asked
            ended = next((row.round for row in judged if judge is not None and judge(row) and not _is_last(row, judged, run)), None)
            if ended is None and run.status == "pruned":
                continue
            last = checked.experiment.measure.last
            value = final_measures([row for row in rows if ended is None or row.round <= ended], last).get(metric, math.nan)
            is_sound = (ended is not None or run.status != "diverged") and math.isfinite(value)
            return _End(run.id, value if is_sound else worst(metric), ended is not None)
        return None


@dataclass(frozen=True)
class _End:
    """How a run of a trial ended: its value, and whether a judge ended it."""

    run: str
    value: float
    pruned: bool


def _is_last(row: Row, judged: Sequence[Row], run: Run) -> bool:
    """Whether a run finished with this round, about which a judge has no say."""
    return run.status == "finished" and row is judged[-1]


def value_text(value: float, metric: str) -> str:
    """A value of a metric for a reader: percents of an accuracy, or a loss."""
    return f"{100 * value:.1f} %" if METRICS[metric] else f"{value:.4g}"
