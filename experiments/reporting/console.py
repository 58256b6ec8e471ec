"""The leaderboard for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from experiments.analysis.comparison import Comparison, compare_runs
from experiments.analysis.conditions import condition_text, data_text
from experiments.analysis.cost import COSTS
from experiments.analysis.format import number, p_value, percent, points
from experiments.analysis.leaderboard import LeaderboardEntry
from experiments.analysis.statistics import Estimate
from experiments.reporting import inference, tables, text
from experiments.reporting.published import published_lines
from fedsam.formatting import count, literal
from fedsam.results.rows import Run
from fedsam.results.store import Results


def leaderboard_table(results: Results, runs: Sequence[Run], baseline: str | None = None, target_accuracy: float | None = None) -> Table:
    """The leaderboard with notes on how to read it and on unfinished runs. Raises as `compare_runs`."""
    comparison = compare_runs(results, runs, baseline, target_accuracy)
    rows = [_cells(comparison, entry) for entry in comparison.entries]
    warning = text.fallback_warning(runs)
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 0), header_style="bold", title=Text(warning) if warning else None, title_style="bold red"
    )
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    for column in columns:
        is_text = column in ("method", "data")
        table.add_column(
            literal(column),
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
            min_width=8 if is_text else None,
        )
    best = tables.best_rows(comparison.entries)
    for index, row in enumerate(rows):
        table.add_row(*(literal(row[column] or "–") for column in columns), style="bold" if index in best else "")
    dead = inference.dead_methods(comparison)
    published = ["Published beside measured: " + line for line in published_lines(comparison)]
    unfinished = [
        f"{entry.label}, {condition_text(entry.clients)}: {entry.status}."
        for entry in comparison.entries
        if entry.status != "finished" and not entry.dead_runs
    ]
    sentences = [*text.notes(comparison), text.significance_note(comparison), *unfinished, *dead, *published]
    table.caption = literal("\n".join(filter(None, sentences)))
    table.caption_justify = "left"
    return table


def _cells(comparison: Comparison, entry: LeaderboardEntry) -> dict[str, str]:
    """The cells of a row by column title, empty for a missing value. A column without any value is left out of the table."""
    test, to_target = comparison.paired_tests.get(entry.key), comparison.times_to_target.get(entry.key)
    loss = entry.measures.get("test_loss")
    costs = {name: COSTS[name].format(entry.costs[name]).replace(" ", "") for name in entry.costs if name in COSTS}
    baseline = comparison.baseline if len(comparison.baseline) <= 6 else "base"
    has_target = comparison.target_accuracy is not None
    evaluations = to_target.costs.get("gradient_evaluations") if to_target and has_target else None
    return {
        "method": entry.label,
        "clients": str(entry.clients),
        "data": data_text(entry.clients),
        "accuracy\n(%)": "diverged" if "diverged" in entry.status else percent(entry.accuracy).removesuffix(" %"),
        "loss": number(Estimate(loss.mean, None)) if loss and not comparison.paired_tests else "",
        f"above {baseline}\n(points)": points(test.difference) if test else "",
        "p": p_value(test.adjusted_p_value) if test and test.adjusted_p_value is not None else "",
        "gradient\nevals": costs.get("gradient_evaluations", ""),
        f"evals to\n{tables.target_text(comparison)}": count(evaluations.mean).replace(" ", "") if evaluations else "",
        "bytes": costs.get("bytes", ""),
        "client\ntime": costs.get("client_seconds", ""),
        "wall\ntime": "" if has_target else costs.get("wall_seconds", ""),
    }
