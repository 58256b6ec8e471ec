"""Published results beside the measured ones of the same settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments.analysis.comparison import Comparison
from experiments.analysis.leaderboard import LeaderboardEntry, SeedGroup
from experiments.analysis.statistics import Estimate
from fedsam.config import Published


@dataclass(frozen=True)
class PublishedComparison:
    """An entry of the leaderboard beside what was published of its settings.

    Attributes:
        entry: The entry.
        published: Published test accuracy, a fraction, with what stands behind its ±.
        measured: Test accuracy over seeds, a fraction: of the best rounds if that was published, else the final one; None where none was
            measured.
        difference: Measured minus published, a fraction, with the interval of the measured; None where its runs have not finished, or
            are of other settings than the published ones.
        best_round: Whether both are of the best round on the test set.
        changed: Settings in which the runs differ from the published ones.
        source: Where the published accuracy stands.
    """

    entry: LeaderboardEntry
    published: Estimate
    measured: Estimate | None
    difference: Estimate | None
    best_round: bool
    changed: tuple[str, ...]
    source: str


def published_comparisons(comparison: Comparison) -> list[PublishedComparison]:
    """The entries of which a result was published, in the order of the leaderboard; none for runs of another dataset than it is of."""
    groups = {group.key: group for group in comparison.groups}
    pairs = [(entry, groups[entry.key]) for entry in comparison.entries]
    return [_beside(entry, group, published) for entry, group in pairs if (published := _published(group)) is not None]


def _published(group: SeedGroup) -> Published | None:
    """What was published of the runs of a group, all of which are of the wanted dataset."""
    found = [run.config.get("published") for run in group.counted_runs if run.dataset == run.dataset_wanted]
    return Published.model_validate(found[0]) if found and found[0] else None


def _beside(entry: LeaderboardEntry, group: SeedGroup, published: Published) -> PublishedComparison:
    half_width = None if published.interval is None else published.interval / 100
    theirs = Estimate(published.accuracy / 100, half_width)
    ours = _best(group) if published.best_round else entry.accuracy
    comparable = ours is not None and entry.is_ranked and not published.changed
    return PublishedComparison(
        entry=entry,
        published=theirs,
        measured=ours,
        difference=Estimate(ours.mean - theirs.mean, ours.half_width) if ours is not None and comparable else None,
        best_round=published.best_round,
        changed=published.changed,
        source=published.source,
    )


def _best(group: SeedGroup) -> Estimate | None:
    """The accuracy of the best round of each run, over seeds; None where a run was not evaluated."""
    evaluated = group.evaluated_rows()
    if not evaluated or not all(evaluated):
        return None
    runs = zip(group.counted_runs, evaluated, strict=True)
    return Estimate.of([math.nan if run.status == "diverged" else max(row.measures["test_accuracy"] for row in rows) for run, rows in runs])
