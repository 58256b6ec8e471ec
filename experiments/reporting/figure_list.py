"""Which figures a report has, each with its caption."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from experiments.analysis.comparison import Comparison
from experiments.analysis.cost import COSTS
from experiments.analysis.format import listed
from experiments.analysis.labels import flatten, part_text
from experiments.reporting import figures, tables
from experiments.reporting.figures import Cut, Flat, Point, Spread
from experiments.reporting.text import alarm, plural
from fedsam.results.rows import Run, Slice

SECTIONS = ("accuracy", "clients", "fronts", "spread", "flatness", "slices", "planes", "holdings")
CURVES = {
    "rounds": "rounds",
    "gradient_evaluations": "compute: one gradient evaluation is one example forward and backward, on any client",
    "wall_seconds": "wall time of the rounds, evaluation left out",
    "bytes": "bytes that the server and its clients exchanged",
    "simulated_seconds": "simulated time: a round lasts as long as its slowest client",
}
BANDS = 4  # methods at most whose intervals are drawn around their curves
TOTALS = ("gradient_evaluations", "client_seconds", "bytes", "wall_seconds")


@dataclass(frozen=True)
class Picture:
    """A figure with its place in the page, one of `SECTIONS`, the name of its files, and its caption."""

    section: str
    name: str
    figure: Figure
    caption: str


def pictures(study: Comparison) -> Iterator[Picture]:
    """Every figure that these runs give."""
    looks, title = figures.looks(study.methods), alarm(study.runs)
    yield from _curves(study, looks, title)
    yield from _clients(study, looks, title)
    yield from _fronts(study, looks, title)
    yield from _spreads(study, looks, title)
    yield from _flatness(study, looks, title)
    yield from _slices(study, looks, title)
    yield from _holdings(study, title)


def _curves(study: Comparison, looks: figures.Looks, title: str) -> Iterator[Picture]:
    for name, words in CURVES.items():
        drawn = [one for one in study.series if name in one.spent]
        if drawn:
            seeds, bands = any(np.isfinite(one.half_width).any() for one in drawn), len({one.label for one in drawn}) <= BANDS
            spread = "Bands are 95 % intervals over seeds." if bands else "Means over seeds; their intervals stand in the leaderboard."
            figure = figures.accuracy_curves(drawn, name, looks, title, bands=bands)
            yield Picture("accuracy", f"accuracy-{_file(name)}", figure, f"Test accuracy against {words}.{f' {spread}' * seeds}")


def _clients(study: Comparison, looks: figures.Looks, title: str) -> Iterator[Picture]:
    if len({line.clients for line in study.ranked}) < 2:
        return
    bars = " Bars are 95 % intervals over seeds." if any(len(line.seeds) > 1 for line in study.ranked) else ""
    finals = {line.key: line.measures["test_accuracy"] for line in study.ranked}
    caption = f"Final test accuracy against the number of clients that share the same training examples.{bars}"
    yield Picture("clients", "accuracy-clients", figures.accuracy_against_clients({"": finals}, looks, title), caption)
    held = {tables.at(one): {key: accuracy for key, accuracy in one.accuracy.items() if accuracy} for one in study.equal}
    caption = f"Test accuracy against the number of clients where all have spent the same, the most that every run has spent.{bars}"
    yield Picture("clients", "accuracy-clients-equal-cost", figures.accuracy_against_clients(held, looks, title), caption)
    totals = {name: {line.key: line.costs[name] for line in study.ranked if name in line.costs} for name in TOTALS}
    caption = "What a whole run costs, against the number of clients."
    yield Picture("clients", "costs-clients", figures.costs_against_clients(totals, looks, title), caption)


def _fronts(study: Comparison, looks: figures.Looks, title: str) -> Iterator[Picture]:
    for name, differ in study.prices.items():
        if not differ:
            continue
        points = [Point(line.label, line.clients, line.measures["test_accuracy"], line.costs[name]) for line in study.ranked]
        fronts = {n: [point.label for point in _front(points, n)] for n in study.counts}
        of = {n: sum(line.clients == n for line in study.ranked) for n in study.counts}
        words = {n: "all methods" if len(labels) == of[n] > 2 else listed(labels) for n, labels in fronts.items() if labels}
        named = "; ".join(f"{text} with {plural(n, 'client')}" for n, text in words.items())
        start = f"Final test accuracy against {COSTS[name].title} of a whole run. On the front, where nothing cheaper is as good:"
        caption = f"{start} {named}. By means: a neighbour whose interval crosses the front may belong to it."
        yield Picture("fronts", f"front-{_file(name)}", figures.pareto(points, name, looks, title), caption)


def _front(points: Sequence[Point], clients: int) -> list[Point]:
    return figures.on_front([point for point in points if point.clients == clients])


def _spreads(study: Comparison, looks: figures.Looks, title: str) -> Iterator[Picture]:
    names = [f"client_accuracy_{name}" for name in ("mean", "std", "worst10")]
    held = [
        Spread(line.label, line.clients, *(line.measures[name].mean for name in names))
        for line in study.lines
        if all(name in line.measures and math.isfinite(line.measures[name].mean) for name in names)
    ]
    if held:
        caption = "Accuracy of the final model on each client's own mix of classes: mean and standard deviation over clients, worst tenth."
        yield Picture("spread", "client-accuracy", figures.client_spread(held, looks, title), caption)


def _flatness(study: Comparison, looks: figures.Looks, title: str) -> Iterator[Picture]:
    for clients in study.counts:
        held: dict[str, list[Flat]] = {}
        for name, words in tables.FLATNESS.items():
            lines = [line for line in study.ranked if line.clients == clients and name in line.measures]
            flats = [Flat(line.label, line.measures["test_accuracy"], line.measures[name]) for line in lines]
            found = study.correlation(name, clients)
            words = words.replace("\n", " ") + (f"\nρ = {found.rho:+.2f}".replace("-", "−") if found else "")
            held |= {words: flats} if len(flats) > 1 else {}
        if held:
            caption = f"Flatness of the final model against test accuracy, {plural(clients, 'client')}; ρ: Spearman's rank correlation."
            yield Picture("flatness", f"flatness-{clients}-clients", figures.flatness_against_accuracy(held, looks, title), caption)


def _slices(study: Comparison, looks: figures.Looks, title: str) -> Iterator[Picture]:
    lines, planes = [], defaultdict(list)
    for group in study.held:
        last: dict[str, list[Slice]] = defaultdict(list)
        for run in group.counted:
            for name, one in {one.name: one for one in study.results.slices(run.id)}.items():  # of each kind the latest round's
                last[name].append(one)
        if last["line"]:
            mean = np.mean([np.array(one.losses)[:, 0] for one in last["line"]], axis=0)
            lines.append(Cut(group.label, group.clients, np.array(last["line"][0].alphas), mean))
        if last["plane"]:
            first = last["plane"][0]
            planes[group.clients].append(Cut(group.label, group.clients, np.array(first.alphas), np.array(first.losses)))
    if lines:
        caption = "Training loss along a random direction through the final model, each filter as long as its weights; mean over seeds."
        yield Picture("slices", "loss-line", figures.loss_lines(lines, looks, title), caption)
    for clients, cuts in planes.items():
        caption = f"Training loss over a plane through the final model of one seed, {plural(clients, 'client')}; the cross is the model."
        yield Picture("planes", f"loss-plane-{clients}-clients", figures.loss_planes(cuts, title), caption)


def _holdings(study: Comparison, title: str) -> Iterator[Picture]:
    dealt: dict[tuple[int, str], Run] = {}
    for run in study.runs:
        dealt.setdefault((run.clients, part_text(flatten(run), "data.partition")), run)
    for place, ((clients, text), run) in enumerate(sorted(dealt.items())):
        counts, names = study.results.label_distribution(run.id), study.results.class_names(run.id)
        rest = f" The first {figures.SHOWN} of {clients} clients are shown." if clients > figures.SHOWN else ""
        caption = f"Who holds what: {plural(clients, 'client')}, {text}, seed {run.seed}. White: no example of that class.{rest}"
        yield Picture("holdings", f"holdings-{place + 1}-{clients}-clients", figures.label_distribution(counts, title, names), caption)


def _file(cost: str) -> str:
    return cost.replace("_", "-")
