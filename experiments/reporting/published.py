"""The table of published results beside the measured ones, for the report and for the terminal."""

from __future__ import annotations

from experiments.analysis.comparison import Comparison
from experiments.analysis.conditions import condition_text
from experiments.analysis.format import percent, points
from experiments.analysis.published import PublishedComparison, published_comparisons
from experiments.reporting.table import Column, ResultTable, Value
from experiments.reporting.tables import CLIENTS, METHOD, condition_table

NOTE = (
    "Difference: measured less published, in points, with the interval of the measured over seeds; the published ± is what its source "
    "says. Where the best round was published, the best on the test set is measured beside it, which is higher than a final accuracy. "
    "There is no difference where runs have not finished or the command line changed settings."
)


def published_beside_measured(comparison: Comparison) -> ResultTable:
    """Published and measured accuracy of each entry of which a result was published, with the difference and the source."""
    columns = [
        METHOD,
        CLIENTS,
        Column("published_accuracy", "published", percent),
        Column("measured_accuracy", "measured", percent),
        Column("difference", "difference\n(points)", points),
        Column("of", "accuracy of"),
        Column("changed", "changed"),
        Column("source", "source"),
    ]
    return condition_table("published", columns, [_row(one) for one in published_comparisons(comparison)], by="clients")


def _row(one: PublishedComparison) -> list[Value]:
    rounds = "best round" if one.best_round else "last rounds"
    identity: list[Value] = [one.entry.label, one.entry.clients, one.published, one.measured, one.difference]
    return [*identity, rounds, ", ".join(one.changed) or None, one.source]


def published_lines(comparison: Comparison) -> list[str]:
    """A line for each entry of which a result was published, for the terminal."""
    return [_line(one) for one in published_comparisons(comparison)]


def _line(one: PublishedComparison) -> str:
    if one.difference is not None:
        compared = f"{points(one.difference)} points"
    else:
        compared = f"not compared, as {', '.join(one.changed)} differs" if one.changed else "not compared"
    measured = f"measured {percent(one.measured)}{' (best round)' if one.best_round else ''}"
    whose = f"{one.entry.label}, {condition_text(one.entry.clients)}"
    return f"{whose}: {percent(one.published)} published, {measured}: {compared}. {one.source}."
