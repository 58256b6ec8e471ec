"""What the seeds of a plan can show, before its runs are made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from experiments.analysis.leaderboard import EntryKey
from experiments.analysis.power import half_width, least_p, smallest_difference, sufficient_seeds
from experiments.analysis.statistics import SIGNIFICANCE_LEVEL
from experiments.planning.plan import PlannedRun
from fedsam.formatting import plural
from fedsam.results.final import final_measures
from fedsam.results.store import Results

LEVEL = f"{100 * SIGNIFICANCE_LEVEL:g} %"


def power_notes(planned: Sequence[PlannedRun]) -> list[str]:
    """The smallest p that the seeds allow, and the interval to expect where two seeds of a line have finished; none for one method."""
    seeds, methods = defaultdict[EntryKey, set[int]](set), defaultdict[int, set[str]](set)
    for one in planned:
        seeds[one.key].add(one.experiment.seed)
        methods[one.condition].add(one.label)
    compared, fewest = max(map(len, methods.values())) - 1, min(map(len, seeds.values()))
    if not compared:
        return []
    return [_least_p(fewest, compared), *_expected_interval(planned, fewest, compared)]


def _least_p(seeds: int, methods: int) -> str:
    if seeds == 1:
        return "1 seed: no test and no interval; differences may be chance"
    least, needed = least_p(seeds, methods), sufficient_seeds(methods)
    corrected = f", with Holm over {methods} methods {least:.2g}" if methods > 1 else ""
    start = f"{seeds} seeds: the smallest p is {least_p(seeds):.4g}{corrected}"
    if least <= SIGNIFICANCE_LEVEL:
        return f"{start}: a difference that all seeds agree on can be significant at {LEVEL}"
    return f"{start}: no difference can be significant at {LEVEL}; {needed} seeds would allow it"


def _expected_interval(planned: Sequence[PlannedRun], seeds: int, methods: int) -> list[str]:
    """From the variance over seeds of runs of the plan that have finished, taken as independent between methods."""
    accuracies, runs_dir = defaultdict[EntryKey, list[float]](list), planned[0].experiment.runs_dir
    finished = [(one.key, one.concluded_run) for one in planned if one.concluded_run and one.concluded_run.status == "finished"]
    if seeds < 2 or not finished:
        return []
    with Results.open(runs_dir, create=False) as results:
        for key, run in finished:
            final = final_measures(results.rounds(run.id, clients=False), int(run.config["measure"]["last"]))
            if math.isfinite(accuracy := final.get("test_accuracy", math.nan)):
                accuracies[key].append(accuracy)
    repeated = [values for values in accuracies.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return []
    pooled = math.sqrt(sum(float(np.var(values, ddof=1)) * (len(values) - 1) for values in repeated) / freedom)
    deviation, lines = math.sqrt(2) * pooled, plural(len(repeated), "line")
    width, found = half_width(deviation, seeds, methods), smallest_difference(deviation, seeds, methods)
    return [
        f"accuracy varies by {100 * pooled:.2g} points over seeds ({lines} that ended): a difference from the baseline would come with "
        f"± {100 * width:.2g} points, and one of {100 * found:.2g} points be found with 80 % probability"
    ]
