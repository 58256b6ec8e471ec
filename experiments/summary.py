"""The numbers behind a report: final accuracies, their intervals over seeds, and costs, from rows alone.

Runs that differ only in their seed are one line. Its accuracy is the mean over seeds of the mean of each run's last evaluations, with
the 95 % interval of Student's t; one seed gives no interval. A line counts finished runs if it has any, and each seed once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from experiments.labels import labels
from fedsam.results import Results
from fedsam.rows import Row, Run, cumulative

LAST = 5  # evaluations that the final accuracy averages
COSTS = ("gradient_evaluations", "forward_evaluations", "bytes_down", "bytes_up", "client_seconds", "wall_seconds")


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its 95 % interval, which is None for one seed; NaN when a run diverged."""

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """The estimate from one value per seed.

        >>> Estimate.of([1.0, 2.0, 3.0]).half_width.__format__(".4f")  # 4.3027 standard errors
        '2.4841'
        """
        if len(values) == 1:
            return cls(float(values[0]), None)
        return cls(float(np.mean(values)), float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values))))


@dataclass(frozen=True)
class Line:
    """One line of the leaderboard: a method with a client count, over its seeds.

    Attributes:
        status: `finished`, or how far the best of its runs came.
        last: How many evaluations the final figures average; 0 when there was none.
        accuracy: Final test accuracy, a fraction.
        finals: Final test accuracy of each seed.
        rounds: The fewest of its runs.
        costs: Totals of a run, mean over seeds, by the names in `COSTS`.
        left_out: Runs not counted: unfinished, or a seed again.
    """

    label: str
    clients: int
    seeds: tuple[int, ...]
    status: str
    last: int
    accuracy: Estimate | None
    loss: Estimate | None
    finals: Mapping[int, float]
    rounds: int
    costs: Mapping[str, float]
    left_out: int

    @property
    def ranked(self) -> bool:
        """Whether its accuracy may be compared with that of others."""
        return self.status == "finished" and self.accuracy is not None and math.isfinite(self.accuracy.mean)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed; `rows` has the rows of the ones that count, with cumulative costs."""

    label: str
    clients: int
    runs: tuple[Run, ...]
    rows: Mapping[str, Sequence[Row]]

    @property
    def counted(self) -> list[Run]:
        """The runs that its figures are made of, by seed."""
        return sorted((run for run in self.runs if run.id in self.rows), key=lambda run: run.seed)

    def evaluated(self) -> list[list[Row]]:
        """For each counted run the rows that have a test accuracy."""
        return [[row for row in self.rows[run.id] if "test_accuracy" in row.measures] for run in self.counted]


def groups(results: Results, runs: Sequence[Run]) -> list[Group]:
    """Runs by method and client count, fewer clients first, methods in the order of their first run."""
    names, members = labels(runs), defaultdict(list)
    for run in runs:
        members[run.clients, names[run.id]].append(run)
    order = list(dict.fromkeys(names[run.id] for run in runs))
    return [
        Group(label, clients, tuple(held), {run.id: cumulative(results.rounds(run.id)) for run in _counted(held)})
        for (clients, label), held in sorted(members.items(), key=lambda item: (item[0][0], order.index(item[0][1])))
    ]


def _counted(runs: Sequence[Run]) -> list[Run]:
    """Each seed once, its newest run; unfinished runs only where no run has finished."""
    finished = [run for run in runs if run.status == "finished"]
    return list({run.seed: run for run in sorted(finished or runs, key=lambda run: run.started)}.values())


def summarize(held: Sequence[Group]) -> list[Line]:
    """The leaderboard: fewer clients first, then the better accuracy first; lines that cannot be ranked come last."""
    lines = [_line(group) for group in held]
    return sorted(lines, key=lambda line: (line.clients, not line.ranked, -line.accuracy.mean if line.ranked and line.accuracy else 0.0))


def _line(group: Group) -> Line:
    counted, evaluated = group.counted, group.evaluated()
    last = min(LAST, *(len(rows) for rows in evaluated))
    done = [len(group.rows[run.id]) for run in counted]
    furthest = max(zip(done, counted, strict=True), key=lambda item: item[0])
    statuses = " or ".join(dict.fromkeys(run.status for run in counted))
    status = "finished" if statuses == "finished" else f"{statuses} after round {furthest[0]} of {furthest[1].config['rounds']}"
    finals = [_final(rows, "test_accuracy", last) for rows in evaluated] if last else []
    losses = [_final(rows, "test_loss", last) for rows in evaluated] if last else []
    ends = [rows[-1] for rows in group.rows.values() if rows]
    return Line(
        label=group.label,
        clients=group.clients,
        seeds=tuple(run.seed for run in counted),
        status=status,
        last=last,
        accuracy=Estimate.of(finals) if finals else None,
        loss=Estimate.of(losses) if losses else None,
        finals=dict(zip((run.seed for run in counted), finals, strict=False)),
        rounds=min(done),
        costs={name: float(np.mean([getattr(row, name) for row in ends])) if ends else 0.0 for name in COSTS},
        left_out=len(group.runs) - len(counted),
    )


def _final(rows: Sequence[Row], measure: str, last: int) -> float:
    return float(np.mean([row.measures.get(measure, math.nan) for row in rows[-last:]]))
