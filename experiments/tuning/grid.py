"""The grid of a study: evenly spread values of each range, and all of each list."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.tuning.settings import Range, StudyPlan
from fedsam.config import ConfigError


def number_of_trials(plan: StudyPlan) -> int:
    """Trials of a study: as many as the file says; of a grid, as many points as fit into that.

    Raises:
        ConfigError: A grid of two values for each range does not fit.
    """
    return sum(1 for _ in grid(plan)) if plan.tuning.sampler == "grid" else plan.tuning.trials


def grid(plan: StudyPlan) -> Iterator[dict[str, Any]]:
    """Every point of a grid: of a range a value, of a list a place in it. The first key varies slowest. Raises as `number_of_trials`."""
    ranges = sum(isinstance(allowed, Range) for allowed in plan.space.values())
    lists = math.prod(len(allowed) for allowed in plan.space.values() if not isinstance(allowed, Range))
    trials = plan.tuning.trials
    each = next(n for n in itertools.count(1) if lists * (n + 1) ** max(1, ranges) > trials) if ranges else 1
    if lists * max(2, each) ** ranges > trials:
        keys = ", ".join(plan.space)
        raise ConfigError(f"tune.trials: {trials} is not allowed with sampler 'grid': {lists * 2**ranges} is the least for {keys}")
    axes = [_points(allowed, each) if isinstance(allowed, Range) else range(len(allowed)) for allowed in plan.space.values()]
    for point in itertools.product(*axes):
        yield dict(zip(plan.space, point, strict=True))


def _points(allowed: Range, count: int) -> Sequence[float | int]:
    """So many values of a range, evenly spread, its ends included."""
    spread = np.geomspace if allowed.log else np.linspace
    values = spread(allowed.low, allowed.high, count).tolist()
    if is_whole(allowed):
        return list(dict.fromkeys(min(int(allowed.high), max(int(allowed.low), round(value))) for value in values))
    return [min(float(allowed.high), max(float(allowed.low), value)) for value in values]


def is_whole(allowed: Range) -> bool:
    """Whether whole numbers alone are tried of a range."""
    return isinstance(allowed.low, int) and isinstance(allowed.high, int)
