"""A comparison whose methods are tuned before its final runs are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from experiments.analysis.conditions import data_text
from experiments.callbacks.callback import Callback, CallbackList
from experiments.planning.plan import PlannedRun, named, plan_comparison
from experiments.running.grids import ActorGroup, DatasetCache
from experiments.running.scheduler import Outcome, carry_out, side_by_side
from experiments.settings.catalogue import check
from experiments.tuning.grid import number_of_trials
from experiments.tuning.settings import StudyPlan, with_settings
from experiments.tuning.studies import StudyError, StudyRunner, TrialRun
from fedsam.config import Experiment
from fedsam.formatting import plural
from fedsam.results.store import Results
from fedsam.results.tuning import Study


@dataclass(frozen=True)
class TunedStudy:
    """A study as far as it has come.

    Attributes:
        plan: What is tuned.
        study: Its trials so far.
        error: Why it has come no further; empty where nothing is wrong.
    """

    plan: StudyPlan
    study: Study
    error: str = ""

    @property
    def runs_left(self) -> int:
        """Number of runs that its trials still take, at most."""
        return (number_of_trials(self.plan) - len(self.study.trials)) * len(self.plan.tuning.seeds)

    @property
    def choice(self) -> dict[str, Any] | None:
        """The chosen settings by dotted key; None before all trials are made."""
        return None if self.runs_left or self.study.chosen is None else dict(self.study.chosen.parameters)

    def judged(self) -> TunedStudy:
        """The same, with an error where all of its trials are made and none can be chosen."""
        if self.runs_left or self.study.chosen is not None:
            return self
        why = f"all {plural(len(self.study.trials), 'trial')} diverged; lower the values in tune.space"
        return replace(self, error=f"tuning of {self.study.label} failed: {why}")


class Comparison:
    """Experiments to be compared, and the studies that choose their settings, as far as they have come.

    Attributes:
        studies: None of them where nothing is tuned.

    Raises:
        ConfigError: A setting of an experiment or a trial is wrong, or a grid has too few trials.
        DataError: A dataset cannot be had.
    """

    def __init__(self, experiments: Sequence[Experiment], plans: Sequence[StudyPlan], cache: DatasetCache) -> None:
        self._experiments, self._cache = list(experiments), cache
        named_plans = zip(plans, self._labels(plans), strict=True)
        self.studies = [TunedStudy(plan, StudyRunner(plan, label, cache).run()).judged() for plan, label in named_plans]
        self._is_recorded = False  # whether the results have all studies and their trials

    @property
    def trials_left(self) -> list[Experiment]:
        """For each run that trials still take, at most, an experiment of its length and costs."""
        return [tuned.plan.base for tuned in self.studies for _ in range(tuned.runs_left)]

    def plan(self) -> list[PlannedRun]:
        """The final runs, with the settings that are chosen so far; without those whose tuning failed.

        Raises:
            ConfigError: As `plan_comparison`.
            DataError: A dataset cannot be had.
        """
        final = [experiment for experiment in self._final() if experiment is not None]
        return plan_comparison(final, self._cache, self._keys) if final or not self.studies else []

    def failures(self) -> list[Outcome]:
        """How the final runs ended that cannot be made, because their tuning failed."""
        return [Outcome(None, "failed", tuned.error) for tuned in self.studies if tuned.error for _ in tuned.plan.members]

    def tune(self, groups: Sequence[ActorGroup], callback: Callback, *, restart: bool = False) -> None:
        """Make the trials that are left: those of a study one after another, studies side by side, one on each group of actors.

        The choices are the same to the bit however often this is interrupted, and however many actors and groups there are. What fails
        is in the studies' `error`, and does not stop the others. `callback` is told of each run as of any other.

        Args:
            restart: As of `perform`.

        Raises:
            ConfigError: A trial is not a valid experiment.
            KeyboardInterrupt: The user stopped it; trials so far are kept.
        """
        callback.plan(self.trials_left)
        self.studies = side_by_side(self.studies, groups, partial(self._tuned, callback=callback, restart=restart))
        self._is_recorded = True

    def record_choices(self, planned: Sequence[PlannedRun]) -> Callback:
        """Note which study chose the settings of each final run: now of those that have ended, and by a callback of those that start."""
        final, study_of = self._final(), dict[str, str]()
        for tuned in self.studies:
            if not self._is_recorded:  # all of its trials were made before, perhaps as those of another study
                StudyRunner(tuned.plan, tuned.study.label, self._cache, record=True).run()
            study_of |= {experiment.dumps(): tuned.study.id for place in tuned.plan.members if (experiment := final[place]) is not None}
        if study_of:
            with Results.open(self._experiments[0].runs_dir) as results:
                for one in planned:
                    if one.concluded_run is not None and (study := study_of.get(one.experiment.dumps())) is not None:
                        results.record_tuned(one.concluded_run.id, study)
        return _ChoiceRecorder(study_of)

    def _tuned(self, tuned: TunedStudy, group: ActorGroup, callback: Callback, restart: bool) -> TunedStudy:
        def make(run: TrialRun) -> Outcome:
            callback.trial(run.checked.experiment, run.title)
            return carry_out(run.checked, group, CallbackList(_Started(run), callback), once=True, restart=restart, judge=run.judge)

        runner = StudyRunner(tuned.plan, tuned.study.label, self._cache, make)
        try:
            found = runner.run()
        except StudyError as error:
            return replace(tuned, study=runner.study(), error=f"tuning of {tuned.study.label} failed: {error}")
        return replace(tuned, study=found).judged()

    def _final(self) -> list[Experiment | None]:
        """The final experiments, with what is chosen so far; None where tuning failed."""
        final: list[Experiment | None] = list(self._experiments)
        for tuned in self.studies:
            for place in tuned.plan.members:
                final[place] = None if tuned.error else with_settings(self._experiments[place], tuned.choice or {})
        return final

    def _labels(self, plans: Sequence[StudyPlan]) -> list[str]:
        """For each study its method, the number of clients of its trials, and their data where the final runs differ in it."""
        if not plans:
            return []
        names = named([check(experiment) for experiment in self._experiments], {key for plan in plans for key in plan.space})
        found = []
        for plan in plans:
            own = [names[place] for place in plan.members]
            data = {data_text(condition) for _, condition in own}
            where = [plural(plan.base.data.clients, "client"), *(data if len(data) == 1 else ())]
            found.append(", ".join(filter(None, [own[0][0], *where])))
        return found

    @property
    def _keys(self) -> set[str]:
        return {key for tuned in self.studies for key in tuned.plan.space}


class _Started(Callback):
    """Notes that a run of a trial has begun."""

    def __init__(self, run: TrialRun) -> None:
        self._run = run

    def started(self, run_id: str, experiment: Experiment) -> None:
        self._run.started(run_id)


class _ChoiceRecorder(Callback):
    """Notes of final runs that begin which study chose their settings."""

    def __init__(self, study_of: dict[str, str]) -> None:
        self._study_of = study_of

    def started(self, run_id: str, experiment: Experiment) -> None:
        if (study := self._study_of.get(experiment.dumps())) is not None:
            with Results.open(experiment.runs_dir) as results:
                results.record_tuned(run_id, study)
