"""Figures of tuning: what was measured for each value that was tried, and the best so far against effort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from experiments.reporting.figures.panels import client_count_titles, limit_to_percents, panels
from experiments.reporting.figures.style import MethodStyles, with_rc_params


@dataclass(frozen=True)
class Tried:
    """A trial of a method.

    Attributes:
        label: The method.
        number: From 1, in the order of the trials.
        values: Of the tuned settings that are numbers, by key.
        result: Of the metric: percents for an accuracy. NaN or infinite where it diverged.
        is_full: Whether it went to its end, neither pruned nor diverged.
        is_chosen: Whether its values were chosen.
    """

    label: str
    number: int
    values: Mapping[str, float]
    result: float
    is_full: bool
    is_chosen: bool


@with_rc_params
def tuning_responses(
    trials: Sequence[Tried], logarithmic: Mapping[str, bool], styles: MethodStyles, title: str = "", *, is_accuracy: bool
) -> Figure:
    """The metric against each tuned setting, a panel each; a ring is the choice, a small cross a trial that was pruned or diverged.

    Trials that diverged stand at the worst finite result.

    Args:
        logarithmic: The settings by key, and whether their axis is logarithmic.
        is_accuracy: Whether the results are accuracies in percent, else losses.
    """
    used = {label: style for label, style in styles.items() if any(one.label == label for one in trials)}
    figure, grid = panels([""] * len(logarithmic), used, title=title, columns=min(2, len(logarithmic)), height=1.7, kind="point")
    finite = [one.result for one in trials if math.isfinite(one.result)]
    worst = (min if is_accuracy else max)(finite, default=0.0)
    for index, ((key, is_log), axes) in enumerate(zip(logarithmic.items(), grid, strict=True)):
        for one in trials:
            if key not in one.values:
                continue
            x, y, colour = one.values[key], one.result if math.isfinite(one.result) else worst, styles[one.label].color
            if one.is_full:
                axes.plot([x], [y], **styles[one.label].point, markersize=2.5)
            else:
                axes.plot([x], [y], color=colour, marker="x", linestyle="", markersize=2, alpha=0.6)
            if one.is_chosen:
                axes.plot([x], [y], color=colour, marker="o", linestyle="", fillstyle="none", markersize=6, markeredgewidth=0.8)
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(key)
        if is_accuracy:
            limit_to_percents(axes)
        if index % 2 == 0:
            axes.set_ylabel(_ylabel(is_accuracy))
    return figure


@with_rc_params
def tuning_progress(trials: Mapping[int, Sequence[Tried]], styles: MethodStyles, title: str = "", *, is_accuracy: bool) -> Figure:
    """The best result so far against the number of trials, a panel for each condition; `is_accuracy` as of `tuning_responses`.

    The axis of accuracies shows the ends and as much below them as lies between them: first trials may be far below.
    """
    labels = {one.label for each in trials.values() for one in each}
    used = {label: style for label, style in styles.items() if label in labels}
    height = 1.9 if len(trials) == 1 else 1.45
    figure, grid = panels(client_count_titles(list(trials)), used, title=title, height=height, shared=True)
    best = max if is_accuracy else min
    for each, axes in zip(trials.values(), grid, strict=True):
        ends = list[float]()
        for label in used:
            own, so_far = [one for one in each if one.label == label and one.is_full], list[float]()
            for one in own:
                so_far.append(best([*so_far[-1:], one.result]))
            ends += so_far[-1:]
            last = max((one.number for one in each if one.label == label), default=0)
            numbers = [*(one.number for one in own), *([last] if own and last > own[-1].number else [])]
            axes.plot(
                numbers, so_far + so_far[-1:] * (len(numbers) - len(own)), **styles[label].line, drawstyle="steps-post", markersize=2.5
            )
        if is_accuracy and ends:
            least, span = min(ends), max(2.0, max(ends) - min(ends))
            axes.set_ylim(least - span, max(ends) + span / 4)
            limit_to_percents(axes)
        axes.set_ylabel(_ylabel(is_accuracy))
    grid[-1].set_xlabel("trials")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _ylabel(is_accuracy: bool) -> str:
    return "validation accuracy (%)" if is_accuracy else "validation loss"
