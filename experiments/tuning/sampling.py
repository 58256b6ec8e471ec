"""What a study tries next, and which of its trials end early: Optuna's samplers and pruner.

A study is never stored as such. It is told of its trials again whenever it goes on, from the rows of their runs, and comes to the same
suggestions: those depend on the seed and on what came before alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.running.judging import Judge
from experiments.tuning.grid import grid, is_whole, number_of_trials
from experiments.tuning.settings import Range, Space, StudyPlan
from fedsam.config import Experiment
from fedsam.results.rows import Row
from fedsam.results.tuning import METRICS, worst

STEPS = 20  # of a trial at which it is compared with others
WARM_UP_STEPS = 5  # before which none ends
WARM_UP_TRIALS = 5  # that go to their end
DIGITS = 4  # significant ones of what is tried
INFINITE_LOSS = 1e9  # nats, in place of an infinite one: samplers compute with it


class OpenTrial:
    """A trial that is made.

    Attributes:
        parameters: What is tried, by dotted key.
    """

    def __init__(self, study: optuna.Study, trial: optuna.Trial, space: Space, metric: str) -> None:
        self._study, self._trial, self._metric = study, trial, metric
        self.parameters = {key: _value(allowed, trial.params[key]) for key, allowed in space.items()}
        self._steps = set[int]()
        self._is_worse: dict[int, bool] = {}  # by round: Optuna decides by what it was told last

    def judge(self, experiment: Experiment) -> Judge:
        """The judge of a run of this trial: it may end where it is worse than the median of the trials before at the same progress.

        It must be told of every evaluated round, in order, the last one of the run included. Told of one again, it says the same again.
        """

        def is_worse(row: Row) -> bool:
            if row.round in self._is_worse:
                return self._is_worse[row.round]
            budget = experiment.budget or math.inf
            progress = max(row.round / experiment.rounds, row.round * row.gradient_evaluations / budget)
            step = min(STEPS, int(STEPS * progress))
            if step not in self._steps:
                self._steps.add(step)
                self._trial.report(_finite(row.measures.get(self._metric, math.nan), self._metric), step)
            self._is_worse[row.round] = self._trial.should_prune()
            return self._is_worse[row.round]

        return is_worse

    def tell(self, value: float, *, pruned: bool) -> None:
        """Note what it came to."""
        if pruned:
            self._study.tell(self._trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(self._trial, _finite(value, self._metric))


class Sampler:
    """Suggests the trials of a study, one after another: each must be told before the next is asked for.

    Attributes:
        trials: How many there are.
    """

    def __init__(self, plan: StudyPlan) -> None:
        tuning, self._space, self._metric = plan.tuning, plan.space, plan.tuning.metric
        self.trials = number_of_trials(plan)
        self._distributions = {key: _distribution(allowed) for key, allowed in plan.space.items()}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=tuning.seed) if tuning.sampler == "tpe" else optuna.samplers.RandomSampler(tuning.seed)
        median = optuna.pruners.MedianPruner(n_startup_trials=WARM_UP_TRIALS, n_warmup_steps=WARM_UP_STEPS)
        pruner = median if tuning.pruning else optuna.pruners.NopPruner()
        self._study = optuna.create_study(sampler=sampler, pruner=pruner, direction="maximize" if METRICS[self._metric] else "minimize")
        for point in grid(plan) if tuning.sampler == "grid" else ():
            self._study.enqueue_trial(point)

    def ask(self) -> OpenTrial:
        """The next trial."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return OpenTrial(self._study, self._study.ask(self._distributions), self._space, self._metric)


def _distribution(allowed: Range | Sequence[Any]) -> BaseDistribution:
    if not isinstance(allowed, Range):
        return CategoricalDistribution(range(len(allowed)))  # places in the list: Optuna's choices are no lists or tables
    if is_whole(allowed):
        return IntDistribution(int(allowed.low), int(allowed.high), log=allowed.log)
    return FloatDistribution(float(allowed.low), float(allowed.high), log=allowed.log)


def _value(allowed: Range | Sequence[Any], suggested: Any) -> Any:
    """A suggestion as the value of a setting, in digits that a reader can copy."""
    if not isinstance(allowed, Range):
        return allowed[suggested]
    return suggested if isinstance(suggested, int) else min(allowed.high, max(allowed.low, float(f"{suggested:.{DIGITS}g}")))


def _finite(value: float, metric: str) -> float:
    """A value as samplers and pruners can compute with it: what is not finite is the worst."""
    if math.isfinite(value):
        return value
    return INFINITE_LOSS if worst(metric) == math.inf else worst(metric)
