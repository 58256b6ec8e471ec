"""Figures: what is told apart, and what fits."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.analysis.curves import Curve
from experiments.analysis.statistics import Estimate
from experiments.reporting import figures
from experiments.reporting.figures import ClassAccuracy, ClientAccuracy, CostPoint, FlatnessPoint, MethodSlice
from experiments.reporting.figures.style import COLOURS

METHODS = ["sgd", "sam", "msam", "fsam", "esam", "vsam", "multistep_sam", "looksam"]
STYLES = figures.method_styles(METHODS)


def one(label: str, clients: int, accuracy: Sequence[float] = (0.1, 0.2, 0.3), cost: float = 100) -> Curve:
    rounds = np.arange(1.0, 1 + len(accuracy))
    return Curve(label, clients, {"rounds": rounds, "bytes": cost * rounds}, np.array(accuracy), np.full(len(accuracy), math.nan))


def points(counts: Sequence[int] = (10, 100)) -> list[CostPoint]:
    pairs = itertools.product(counts, enumerate(METHODS))
    return [CostPoint(label, clients, Estimate(0.5 + place / 50, 0.01), 100.0 + 7 * place) for clients, (place, label) in pairs]


FIGURES = ("curves", "losses", "clients", "equal", "costs", "front", "flatness", "lines", "spread")


def drawn(name: str, counts: Sequence[int]) -> Figure:
    """A figure of methods."""
    series = [one(label, clients) for clients in counts for label in METHODS]
    accuracies = {(point.label, point.clients): point.accuracy for point in points(counts)}
    costs = {(point.label, point.clients): point.cost for point in points(counts)}
    match name:
        case "curves":
            return figures.accuracy_curves(series, "rounds", STYLES)
        case "losses":
            return figures.loss_curves(series, "test loss", STYLES)
        case "clients":
            return figures.accuracy_against_clients({"": accuracies}, STYLES)
        case "equal":
            return figures.accuracy_against_clients({"at 3\nrounds": accuracies, "at 9\nbytes": accuracies}, STYLES)
        case "costs":
            return figures.costs_against_clients({"bytes": costs, "rounds": costs}, STYLES)
        case "front":
            return figures.pareto(points(counts), "bytes", STYLES)
        case "flatness":
            trace = [FlatnessPoint(x, Estimate(0.5, 0.1), Estimate(1, None)) for x in METHODS]
            return figures.flatness_against_accuracy({"trace": trace}, STYLES)
        case "lines":
            slices = [MethodSlice(label, clients, np.linspace(-1, 1, 5), np.arange(1.0, 6)) for clients in counts for label in METHODS]
            return figures.loss_lines(slices, STYLES)
        case "spread":
            return figures.client_accuracies([ClientAccuracy(x, n, 0.5, 0.1, 0.2) for n in counts for x in METHODS], STYLES)
    raise ValueError(name)


def colours(axes: Axes) -> list[object]:
    marked = [line for line in axes.get_lines() if line.get_marker() not in ("None", "", "|", "_")]
    return list(dict.fromkeys(line.get_color() for line in marked))


@pytest.mark.parametrize("name", FIGURES)
def test_a_method_has_one_colour_in_every_figure(name: str) -> None:
    for axes in drawn(name, [10, 100]).axes:
        assert set(colours(axes)) == {style.color for style in STYLES.values()}


def test_eight_methods_have_eight_colours_and_more_have_other_dashes() -> None:
    assert len({style.color for style in STYLES.values()}) == 8 == len(COLOURS)
    styles = figures.method_styles([f"method {place}" for place in range(20)])
    assert len({(style.color, str(style.linestyle)) for style in styles.values()}) == 20


def test_a_client_count_has_a_panel_of_its_own() -> None:
    figure = figures.accuracy_curves([one(label, n) for n in (10, 100) for label in ("sgd", "sam")], "rounds", STYLES)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["10 clients", "100 clients"]
    assert all(len(axes.get_lines()) == 2 for axes in figure.axes)


def test_panels_share_an_axis_unless_their_costs_are_far_apart() -> None:
    near, far = ([one("sgd", 10), one("sgd", 100, cost=cost)] for cost in (200, 1000))
    assert [axes.get_xlabel() for axes in figures.accuracy_curves(near, "bytes", STYLES).axes] == ["", "bytes"]
    assert [axes.get_xlabel() for axes in figures.accuracy_curves(far, "bytes", STYLES).axes] == ["bytes", "bytes"]


@pytest.mark.parametrize("series", [one("sgd", 1, (0.1, 0.2, math.nan)), replace(one("sgd", 1, (0.1, 0.2)), diverged=True)])
def test_a_cross_ends_a_curve_that_diverged(series: Curve) -> None:
    _, cross = figures.accuracy_curves([series], "rounds", STYLES).axes[0].get_lines()
    assert (cross.get_marker(), np.asarray(cross.get_xydata()).tolist()) == ("x", [[2.0, 20.0]])


@pytest.mark.parametrize("name", FIGURES)
def test_legend_lies_outside_the_axes_and_all_text_inside_the_figure(name: str) -> None:
    figure = drawn(name, [10, 50, 200])
    figures.encode(figure, "svg")
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    assert box.x0 >= -0.01 and box.x1 <= whole.width + 0.01 and box.y0 >= -0.01 and box.y1 <= whole.height + 0.01
    (legend,) = figure.legends
    for axes in figure.axes:
        own = axes.get_tightbbox()
        assert own is not None and legend.get_window_extent().y1 <= own.y0 + 1


def test_all_points_are_named_and_those_of_the_front_filled() -> None:
    held = [
        CostPoint(label, 10, Estimate(value, None), cost) for label, value, cost in (("sgd", 0.5, 1), ("sam", 0.6, 2), ("esam", 0.55, 3))
    ]
    (axes,) = figures.pareto(held, "bytes", STYLES).axes
    assert [text.get_text() for text in axes.texts] == ["sgd", "sam", "esam"]
    assert [line.get_fillstyle() for line in axes.get_lines() if line.get_marker() in ("o", "s", "v")] == ["full", "full", "none"]


def test_time_is_in_units_of_its_size() -> None:
    held = [CostPoint("sgd", 10, Estimate(0.5, None), 600.0)]
    (axes,) = figures.pareto(held, "client_seconds", STYLES).axes
    assert axes.get_xlabel() == "client time (min)"
    assert axes.get_lines()[-1].get_xdata() == [10]


def test_intervals_of_few_seeds_do_not_squeeze_the_rest() -> None:
    wide = {("sgd", clients): Estimate(0.5, 3.0) for clients in (10, 100)}
    low, high = figures.accuracy_against_clients({"": wide}, STYLES).axes[0].get_ylim()
    assert (low, high) == (-2, 102)


def test_planes_share_their_levels_and_bear_what_is_not_finite() -> None:
    alphas, losses = np.linspace(-1, 1, 5), np.outer(np.arange(1.0, 6), np.ones(5))
    held = [MethodSlice("sgd", 10, alphas, losses), MethodSlice("sam", 10, alphas, np.where(losses > 3, math.nan, 2 * losses))]
    figure = figures.loss_planes(held)
    figures.encode(figure, "png")
    first, second = (axes.collections[0] for axes in figure.axes[:2])
    assert first.norm.vmin == second.norm.vmin and first.norm.vmax == second.norm.vmax
    figures.encode(figures.loss_planes([MethodSlice("sgd", 10, alphas, np.full((5, 5), math.nan))]), "png")


def test_picture_of_holdings_shows_a_hundred_clients_at_most() -> None:
    figure = figures.label_distribution(np.ones((250, 100), dtype=int))
    bars, cells = figure.axes[:2]
    assert len(bars.patches) == 100
    assert cells.get_xlabel() == "client (the first 100 of 250)"
    figures.encode(figures.label_distribution(np.zeros((1, 2), dtype=int)), "svg")


NAMES = ["_sam", "cost $5 or $6", r"$\rho_{bad$ 100% & <b>#1</b>", "αβ 中文", r"\alpha $^2$"]


def texts(figure: Figure) -> set[str]:
    """Every text of a figure, ticks included."""
    figures.encode(figure, "png")
    return {text.get_text() for text in figure.findobj(Text) if text.get_visible()}


@pytest.mark.parametrize("name", FIGURES)
def test_names_are_text_and_no_formula(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "METHODS", NAMES)
    monkeypatch.setattr(sys.modules[__name__], "STYLES", figures.method_styles(NAMES))
    figure = drawn(name, [10])
    assert set(NAMES) <= texts(figure)
    assert not any(text.get_parse_math() for text in figure.findobj(Text))


def test_numbers_of_a_logarithmic_axis_are_no_formulas() -> None:
    lines = [MethodSlice("sgd", 10, np.linspace(-1, 1, 5), np.logspace(0, 26, 5))]
    shown = texts(figures.loss_lines(lines, STYLES)) | texts(figures.loss_curves([one("sgd", 10, (1e-3, 1.0, 1e26))], "test loss", STYLES))
    assert not [text for text in shown if "$" in text or "\\" in text]
    assert any("e+" in text for text in shown)


def test_names_of_classes_are_text() -> None:
    kinds = ["$", "a_b$^", "\x1b[31mred", ":bug:"]
    shown = texts(figures.label_distribution(np.ones((2, 4), dtype=int), names=kinds))
    shown &= texts(figures.class_accuracies([ClassAccuracy("sgd", 10, np.array([0.1, 0.2, math.nan, 0.4]))], names=kinds))
    assert {"$", "a_b$^", r"\x1b[31mred", ":bug:"} <= shown


def test_no_cell_of_a_figure_is_empty() -> None:
    held = {("sgd", 10): Estimate(0.5, None)}
    figure = figures.accuracy_against_clients({f"panel {number}": held for number in range(5)}, STYLES)
    figures.encode(figure, "png")
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 5
    assert boxes[4].x0 == pytest.approx(boxes[2].x0, abs=0.02) and boxes[4].x1 == pytest.approx(boxes[3].x1, abs=0.02)


def test_characters_without_a_font_are_known() -> None:
    assert figures.undrawable("sgd ρ=0.1 $") == ""
    assert figures.undrawable("a\ue123b") == "\ue123"
