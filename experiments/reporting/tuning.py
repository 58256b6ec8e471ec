"""The section of a report on tuning: what was chosen, how results depend on the settings, and what effort bought."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from experiments.analysis.comparison import Comparison
from experiments.analysis.conditions import condition_name, condition_text, run_conditions
from experiments.analysis.format import percent
from experiments.analysis.leaderboard import EntryKey
from experiments.analysis.statistics import Estimate
from experiments.reporting.figures.style import method_styles
from experiments.reporting.figures.tuning import Tried, tuning_progress, tuning_responses
from experiments.reporting.report_figure import ReportFigure
from experiments.reporting.table import Column, ResultTable, Value
from experiments.reporting.tables import CLIENTS, METHOD, condition_table
from fedsam.formatting import listed, plural
from fedsam.overrides import flatten
from fedsam.results.tuning import Study, worst
from fedsam.wording import is_number

ACCURACY = "validation_accuracy"


def studies(comparison: Comparison) -> dict[EntryKey, Study]:
    """The studies that chose settings, each once, by its method and a condition; empty where nothing was tuned.

    The condition is that of the trials, where a choice holds for several.
    """
    where, found = run_conditions(comparison.runs), dict[EntryKey, Study]()
    for study in comparison.results.studies([run.id for run in comparison.runs]):
        own = set(study.runs)
        keys = {(comparison.labels[run.id], where[run.id]) for run in comparison.runs if run.id in own}
        clients = flatten(study.settings.get("at", {})).get("data.clients")
        found[min([key for key in keys if int(key[1]) == clients] or keys)] = study
    return dict(sorted(found.items(), key=lambda item: (item[0][1], comparison.methods.index(item[0][0]))))


def choices(comparison: Comparison) -> ResultTable:
    """What was chosen for each method and condition, with what was measured on validation examples, and warnings."""
    columns = [
        METHOD,
        CLIENTS,
        Column("chosen", "chosen"),
        Column("validation", "validation", _result),
        Column("trials", "trials"),
        Column("pruned", "of them\npruned"),
        Column("edge", "at the end of its range"),
    ]
    rows: list[list[Value]] = []
    for (label, clients), study in studies(comparison).items():
        best, pruned = study.chosen, sum(trial.pruned for trial in study.trials)
        if best is None or best.value is None:
            continue
        chosen = ", ".join(f"{_short(key)}={_text(value)}" for key, value in best.parameters.items())
        edges = [_short(key) for key in study.edges]
        value: Value = Estimate(best.value, None) if study.settings["metric"] == ACCURACY else best.value
        rows.append([label, clients, chosen, value, len(study.trials), pruned, listed(edges) if edges else None])
    return condition_table("tuning", columns, rows, by="clients")


def edge_findings(comparison: Comparison) -> list[str]:
    """A sentence on the choices that lie at the end of what was allowed."""
    found = [
        f"{label} with {condition_text(clients)} ({listed([_short(key) for key in study.edges])})"
        for (label, clients), study in studies(comparison).items()
        if study.edges
    ]
    if not found:
        return []
    return [f"Tuned to the end of what was allowed, so that a better value may lie outside: {'; '.join(found)}."]


def tuning_figures(comparison: Comparison, title: str) -> Iterator[ReportFigure]:
    """Responses for each condition, and the best so far against the number of trials; nothing where nothing was tuned."""
    styles, by_condition = method_styles(comparison.methods), defaultdict[int, dict[str, Study]](dict)
    for (label, clients), study in studies(comparison).items():
        by_condition[clients][label] = study
    for metric in dict.fromkeys(study.settings["metric"] for each in by_condition.values() for study in each.values()):
        name, is_accuracy = metric.replace("_", " "), metric == ACCURACY
        tried = {
            clients: [one for label, study in own.items() if study.settings["metric"] == metric for one in _tried(label, study)]
            for clients, own in by_condition.items()
        }
        for clients, trials in tried.items():
            axes = _axes(list(by_condition[clients].values()))
            if trials and axes:
                caption = (
                    f"What tuning tried, {condition_text(clients)}: {name} of each trial. A ring is the choice; "
                    "a cross is a trial that was pruned or diverged. Other settings vary too, so no point is the effect of one alone."
                )
                draw = partial(tuning_responses, trials, axes, styles, title, is_accuracy=is_accuracy)
                yield ReportFigure("tuning", f"tuning-{metric}-{condition_name(clients)}".replace("_", "-"), caption, draw)
        caption = f"Best {name} so far against {_effort(by_condition)}, which every method got alike."
        draw = partial(tuning_progress, {n: own for n, own in tried.items() if own}, styles, title, is_accuracy=is_accuracy)
        yield ReportFigure("tuning", f"tuning-effort-{metric}".replace("_", "-"), caption, draw)


def _result(value: Estimate | float) -> str:
    """An accuracy in percent, or a loss."""
    return percent(value) if isinstance(value, Estimate) else f"{value:.4g}"


def _effort(by_condition: Mapping[int, Mapping[str, Study]]) -> str:
    settings = next(study.settings for each in by_condition.values() for study in each.values())
    length = f"{settings['budget']:,} gradient evaluations" if settings.get("budget") else None
    length = length or (plural(settings["rounds"], "round") if settings.get("rounds") else None)
    return f"the number of trials{f' of {length}' if length else ''}"


def _tried(label: str, study: Study) -> Iterator[Tried]:
    scale = 100 if study.settings["metric"] == ACCURACY else 1
    for trial in study.trials:
        if trial.value is None:
            continue
        numbers = {_short(key): float(value) for key, value in trial.parameters.items() if is_number(value)}
        diverged = trial.value == worst(study.settings["metric"])
        result = math.nan if diverged else scale * trial.value
        yield Tried(label, trial.number, numbers, result, not trial.pruned and not diverged, trial == study.chosen)


def _axes(found: Sequence[Study]) -> dict[str, bool]:
    """The tuned settings that are numbers, and whether they are drawn on a logarithmic axis."""
    axes: dict[str, bool] = {}
    for study in found:
        for key, allowed in study.settings["space"].items():
            if isinstance(allowed, Mapping):
                axes[_short(key)] = bool(allowed["log"])
            elif all(map(is_number, allowed)):
                axes.setdefault(_short(key), False)
    return axes


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
