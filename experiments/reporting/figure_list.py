"""The figures of a report, each with its section, file name and caption."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from experiments.analysis.comparison import Comparison
from experiments.analysis.conditions import condition_name, condition_text, data_text
from experiments.analysis.cost import COSTS
from experiments.analysis.curves import Curve, measure_curves
from experiments.analysis.labels import component_text, flatten
from experiments.analysis.leaderboard import EntryKey
from experiments.analysis.statistics import Estimate
from experiments.reporting import figures, tables
from experiments.reporting.figures import ClassAccuracy, ClientAccuracy, CostPoint, FlatnessPoint, MethodSlice, MethodStyles
from experiments.reporting.report_figure import ReportFigure
from experiments.reporting.text import fallback_warning
from experiments.reporting.tuning import tuning_figures
from fedsam.formatting import listed
from fedsam.results.rows import Run, Slice

SECTIONS = ("accuracy", "loss", "clients", "fronts", "classes", "spread", "flatness", "slices", "planes", "holdings", "tuning")
CURVE_COSTS = {
    "rounds": "rounds",
    "gradient_evaluations": "compute: one gradient evaluation is one example forward and backward, on any client",
    "wall_seconds": "wall time of the rounds, evaluation left out",
    "bytes": "bytes that the server and its clients exchanged",
    "simulated_seconds": "simulated time: a round lasts as long as its slowest client",
}
LOSSES = {"test_loss": "test loss", "train_loss": "training loss"}
MAX_BANDS = 4  # with more methods, curves are drawn without their intervals
TOTAL_COSTS = ("gradient_evaluations", "client_seconds", "bytes", "wall_seconds")


def report_figures(comparison: Comparison) -> Iterator[ReportFigure]:
    """Every figure for which the runs have data."""
    styles, title = figures.method_styles(comparison.methods), fallback_warning(comparison.runs)
    yield from _curves(comparison, styles, title)
    yield from _losses(comparison, styles, title)
    if len({int(entry.clients) for entry in comparison.ranked_entries}) > 1:
        yield from _client_counts(comparison, styles, title)
    yield from _fronts(comparison, styles, title)
    yield from _class_accuracies(comparison, title)
    yield from _client_accuracies(comparison, styles, title)
    yield from _flatness(comparison, styles, title)
    yield from _slices(comparison, styles, title)
    yield from _label_distributions(comparison, title)
    yield from tuning_figures(comparison, title)


def _curves(comparison: Comparison, styles: MethodStyles, title: str) -> Iterator[ReportFigure]:
    for name, words in CURVE_COSTS.items():
        curves = [curve for curve in comparison.curves if name in curve.costs]
        if not curves:
            continue
        bands, caption = _has_bands(curves), f"Test accuracy against {words}.{_about_seeds(curves)}"
        draw = partial(figures.accuracy_curves, curves, name, styles, title, bands=bands)
        yield ReportFigure("accuracy", f"accuracy-{_file_name(name)}", caption, draw)


def _losses(comparison: Comparison, styles: MethodStyles, title: str) -> Iterator[ReportFigure]:
    for name, words in LOSSES.items():
        curves = measure_curves(comparison.groups, name)
        if not curves:
            continue
        of = " The training loss is the mean over local steps, with augmentation." if name == "train_loss" else ""
        caption = f"{words.capitalize()} against rounds.{of}{_about_seeds(curves)}"
        draw = partial(figures.loss_curves, curves, words, styles, title, bands=_has_bands(curves))
        yield ReportFigure("loss", f"{_file_name(name)}-rounds", caption, draw)


def _has_bands(curves: Sequence[Curve]) -> bool:
    return len({curve.label for curve in curves}) <= MAX_BANDS


def _about_seeds(curves: Sequence[Curve]) -> str:
    """How curves show seeds; empty for one seed."""
    if not any(np.isfinite(curve.half_width).any() for curve in curves):
        return ""
    return f" {'Bands are 95 % intervals over seeds.' if _has_bands(curves) else 'Means over seeds; intervals stand in the leaderboard.'}"


def _client_counts(comparison: Comparison, styles: MethodStyles, title: str) -> Iterator[ReportFigure]:
    entries = comparison.ranked_entries
    bars = " Bars are 95 % intervals over seeds." if any(len(entry.seeds) > 1 for entry in entries) else ""
    final = _by_data({"": {entry.key: entry.measures["test_accuracy"] for entry in entries}})
    caption = f"Final test accuracy against the number of clients that share the same training examples.{bars}"
    yield ReportFigure("clients", "accuracy-clients", caption, partial(figures.accuracy_against_clients, final, styles, title))
    at_equal_cost = _by_data(
        {
            tables.equal_cost_title(one): {key: accuracy for key, accuracy in one.accuracy.items() if accuracy}
            for one in comparison.equal_costs
        }
    )
    same = "all methods with the same number of clients and data have spent the same, the most that each of their runs has"
    caption = f"Test accuracy against the number of clients where {same}.{bars}"
    draw = partial(figures.accuracy_against_clients, at_equal_cost, styles, title)
    yield ReportFigure("clients", "accuracy-clients-equal-cost", caption, draw)
    for number, data in enumerate(comparison.data_settings, 1):
        own = [entry for entry in entries if data_text(entry.clients) == data]
        totals = {name: {entry.key: entry.costs[name] for entry in own if name in entry.costs} for name in TOTAL_COSTS}
        caption = f"What a whole run costs, against the number of clients{f': {data}' if data else ''}."
        draw = partial(figures.costs_against_clients, totals, styles, title)
        yield ReportFigure("clients", f"costs-clients-data-{number}" if data else "costs-clients", caption, draw)


def _by_data(panels: Mapping[str, Mapping[EntryKey, Estimate]]) -> dict[str, dict[EntryKey, Estimate]]:
    """Panels, one for each data setting where runs differ in them."""
    found: defaultdict[str, dict[EntryKey, Estimate]] = defaultdict(dict)
    for title, accuracies in panels.items():
        for (label, clients), accuracy in accuracies.items():
            found["\n".join(filter(None, [title, data_text(clients)]))][label, clients] = accuracy
    return dict(found)


def _fronts(comparison: Comparison, styles: MethodStyles, title: str) -> Iterator[ReportFigure]:
    for name in [name for name, differ in comparison.costs_differ.items() if differ]:
        points = [
            CostPoint(entry.label, entry.clients, entry.measures["test_accuracy"], entry.costs[name]) for entry in comparison.ranked_entries
        ]
        on_front = [_front_text(points, clients) for clients in comparison.conditions]
        start = f"Final test accuracy against {COSTS[name].title} of a whole run. On the front, where nothing cheaper is as good:"
        caption = f"{start} {'; '.join(filter(None, on_front))}. By means: a neighbour whose interval crosses the front may belong to it."
        yield ReportFigure("fronts", f"front-{_file_name(name)}", caption, partial(figures.pareto, points, name, styles, title))


def _front_text(points: Sequence[CostPoint], clients: int) -> str:
    """The methods on the front of one client count; empty where it has no points."""
    own = [point for point in points if point.clients == clients]
    front = [point.label for point in figures.front_points(own)]
    if not front:
        return ""
    return f"{'all methods' if len(front) == len(own) > 2 else listed(front)} with {condition_text(clients)}"


def _class_accuracies(comparison: Comparison, title: str) -> Iterator[ReportFigure]:
    """Only where all runs have the same classes."""
    classes = {(run.classes, comparison.results.class_names(run.id)) for run in comparison.runs}
    measured = [entry for entry in comparison.entries if any(name.startswith(tables.CLASS_ACCURACY) for name in entry.measures)]
    if len(classes) != 1 or not measured:
        return
    ((number, names),) = classes
    accuracies = [ClassAccuracy(entry.label, entry.clients, np.array(tables.class_accuracies(entry, number))) for entry in measured]
    caption = "Test accuracy of the final model on each class, mean over seeds."
    yield ReportFigure("classes", "class-accuracy", caption, partial(figures.class_accuracies, accuracies, title, names))


def _client_accuracies(comparison: Comparison, styles: MethodStyles, title: str) -> Iterator[ReportFigure]:
    names = [f"client_accuracy_{name}" for name in ("mean", "std", "worst10")]
    accuracies = [
        ClientAccuracy(entry.label, entry.clients, *(entry.measures[name].mean for name in names))
        for entry in comparison.entries
        if all(name in entry.measures and math.isfinite(entry.measures[name].mean) for name in names)
    ]
    if accuracies:
        caption = "Accuracy of the final model on each client's own mix of classes: mean and standard deviation over clients, worst tenth."
        yield ReportFigure("spread", "client-accuracy", caption, partial(figures.client_accuracies, accuracies, styles, title))


def _flatness(comparison: Comparison, styles: MethodStyles, title: str) -> Iterator[ReportFigure]:
    for clients in comparison.conditions:
        panels: dict[str, list[FlatnessPoint]] = {}
        for name, heading in tables.FLATNESS.items():
            entries = [one for one in comparison.entries if one.is_alive and one.clients == clients and name in one.measures]
            if len(entries) < 2:
                continue
            correlation = comparison.correlation(name, clients)
            rho = f"\nρ = {correlation.rho:+.2f}".replace("-", "−") if correlation else ""
            points = [FlatnessPoint(entry.label, entry.measures["test_accuracy"], entry.measures[name]) for entry in entries]
            panels[heading.replace("\n", " ") + rho] = points
        if panels:
            caption = f"Flatness of the final model against test accuracy, {condition_text(clients)}; ρ: Spearman's rank correlation."
            draw = partial(figures.flatness_against_accuracy, panels, styles, title)
            yield ReportFigure("flatness", f"flatness-{condition_name(clients)}", caption, draw)


def _slices(comparison: Comparison, styles: MethodStyles, title: str) -> Iterator[ReportFigure]:
    lines, planes = [], defaultdict(list)
    for group in comparison.groups:
        last: dict[str, list[Slice]] = defaultdict(list)  # by name, that of the last round of each run
        for run in group.counted_runs:
            for name, found in {found.name: found for found in comparison.results.slices(run.id)}.items():
                last[name].append(found)
        if last["line"]:
            mean = np.mean([np.array(found.losses)[:, 0] for found in last["line"]], axis=0)
            lines.append(MethodSlice(group.label, group.clients, np.array(last["line"][0].alphas), mean))
        if last["plane"]:
            first = last["plane"][0]
            planes[group.clients].append(MethodSlice(group.label, group.clients, np.array(first.alphas), np.array(first.losses)))
    if lines:
        caption = "Training loss along a random direction through the final model, each filter as long as its weights; mean over seeds."
        yield ReportFigure("slices", "loss-line", caption, partial(figures.loss_lines, lines, styles, title))
    for clients, slices in planes.items():
        caption = f"Training loss over a plane through the final model of one seed, {condition_text(clients)}; the cross is the model."
        yield ReportFigure("planes", f"loss-plane-{condition_name(clients)}", caption, partial(figures.loss_planes, slices, title))


def _label_distributions(comparison: Comparison, title: str) -> Iterator[ReportFigure]:
    partitions: dict[tuple[int, str], Run] = {}
    for run in comparison.runs:
        partitions.setdefault((run.clients, component_text(flatten(run), "data.partition")), run)
    for number, ((clients, partition), run) in enumerate(sorted(partitions.items()), 1):
        counts, names = comparison.results.label_distribution(run.id), comparison.results.class_names(run.id)
        caption = f"Who holds what: {condition_text(clients)}, {partition}, seed {run.seed}. White: no example of that class."
        if clients > figures.MAX_CLIENTS:
            caption += f" The first {figures.MAX_CLIENTS} of {clients} clients are shown."
        draw = partial(figures.label_distribution, counts, title, names)
        yield ReportFigure("holdings", f"holdings-{number}-{clients}-clients", caption, draw)


def _file_name(cost: str) -> str:
    return cost.replace("_", "-")
