"""What tests over seeds show, in words and tables: mean ranks, interactions, what is possible with so few seeds, and dead methods."""

from __future__ import annotations

from experiments.analysis import dead_runs
from experiments.analysis.comparison import Comparison
from experiments.analysis.conditions import condition_text
from experiments.analysis.format import p_value, points
from experiments.analysis.interaction import Interaction
from experiments.analysis.power import least_p
from experiments.analysis.statistics import SIGNIFICANCE_LEVEL
from experiments.reporting.table import Column, ResultTable, Value
from fedsam.formatting import listed, plural


def unit(comparison: Comparison) -> str:
    """What methods are compared within, in words."""
    return "condition" if len(comparison.data_settings) > 1 else "client count"


def about_intervals(comparison: Comparison) -> str:
    """Which intervals of differences are corrected, and which p is possible."""
    widened = [key for key, test in comparison.paired_tests.items() if test.simultaneous != test.difference]
    if not widened:
        return "Intervals are not corrected."
    most = max(sum(n == clients for _, n in widened) for _, clients in widened)
    seeds = max(comparison.paired_tests[key].seeds for key in widened)
    return (
        f"With the correction over {most} methods it cannot be below {p_value(least_p(seeds, most))}. ± beside a difference is the 95 % "
        "interval of that method alone; “± for all together” is Bonferroni's t-interval, with which all intervals of a "
        f"{unit(comparison)} hold at once at the 95 % level."
    )


def interaction_findings(comparison: Comparison) -> list[str]:
    """A sentence for the number of clients, and one for the data: whether gaps to the baseline change with them."""
    tested = [one for one in comparison.interactions if one.adjusted_p_value is not None]
    found = ((along, [one for one in tested if one.along == along]) for along in ("clients", "data"))
    return [_interaction_finding(comparison, along, own) for along, own in found if own]


def _interaction_finding(comparison: Comparison, along: str, tested: list[Interaction]) -> str:
    changing = [one for one in tested if (one.adjusted_p_value or 0.0) <= SIGNIFICANCE_LEVEL]
    what = "the number of clients" if along == "clients" else "the data"
    about = f"with {what}, {tested[0].text}"
    if changing:
        parts = [f"{points(one.change)} points ({one.label}, p {_equals(one)})" for one in changing]
        rest = len(tested) - len(changing)
        others = f"; of {plural(rest, 'other method')} no change is shown" if rest else ""
        return f"The gap to {comparison.baseline} changes {about}: {listed(parts)}{others}."
    largest = max(tested, key=lambda one: abs(one.change.mean))
    possible = least_p(largest.seeds, len(tested))
    limit = f", nor can it with {plural(largest.seeds, 'seed')}, whose smallest p is {p_value(possible)}"
    return (
        f"The gap to {comparison.baseline} is not shown to change {about}{limit if possible > SIGNIFICANCE_LEVEL else ''}: "
        f"the largest change is {points(largest.change)} points ({largest.label}, p {_equals(largest)})."
    )


def _equals(one: Interaction) -> str:
    text = p_value(one.adjusted_p_value or 0.0)
    return text if text.startswith("<") else f"= {text}"


def dead_methods(comparison: Comparison) -> list[str]:
    """A sentence for each method that has runs at chance level or not finite, with the likely cause; one where all methods have."""
    return [sentence for clients in comparison.conditions for sentence in _dead_methods(comparison, clients)]


def _dead_methods(comparison: Comparison, clients: int) -> list[str]:
    entries = [entry for entry in comparison.entries if entry.clients == clients]
    dead = [entry for entry in entries if entry.dead_runs]
    where, beyond = condition_text(clients), "what they show is no property of the methods"
    if len(dead) == len(entries) > 1:
        status = "; ".join(f"{entry.label}: {entry.shown_status}" for entry in dead)
        cause = "too few rounds, or client.optimizer.lr does not suit this network"
        return [f"Every method with {where} has runs that did not learn ({status}); {beyond}. Likely cause: {cause}."]
    return [
        f"{entry.label} with {where}: {entry.shown_status}. What it shows is no property of the method; "
        f"likely cause: {dead_runs.cause(entry.dead_runs[0])}."
        for entry in dead
    ]


def interaction(comparison: Comparison) -> ResultTable:
    """How the gap of each method to the baseline changes with the number of clients, and with the data."""
    columns = [
        Column("method", "method"),
        Column("along", "change of the gap"),
        Column("change", "points", points),
        Column("p", "p", p_value),
        Column("p_holm", "p\n(Holm)", p_value),
        Column("seeds", "seeds"),
    ]
    rows: list[list[Value]] = [
        [one.label, one.text, one.change, one.p_value, one.adjusted_p_value, one.seeds] for one in comparison.interactions
    ]
    return ResultTable.of("interaction", columns, rows, by="along")


def mean_ranks(comparison: Comparison) -> ResultTable:
    """The rank of each method in each condition, and the mean over conditions, the best first."""
    conditions = comparison.conditions
    columns = [Column("method", "method"), Column("mean_rank", "mean rank", lambda value: f"{value:.2f}")]
    columns += [Column(f"rank_{place}", condition_text(clients)) for place, clients in enumerate(conditions, 1)]
    found = sorted(comparison.mean_ranks.items(), key=lambda item: item[1])
    rows: list[list[Value]] = [[label, mean, *(comparison.ranks[label, clients] for clients in conditions)] for label, mean in found]
    return ResultTable.of("mean-ranks", columns, rows)


TABLES = (interaction, mean_ranks)
