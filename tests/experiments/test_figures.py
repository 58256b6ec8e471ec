"""Figures: what is told apart, and what fits."""

from __future__ import annotations

import math

import numpy as np

from experiments import figures


def one(label: str, clients: int) -> figures.Series:
    rounds = np.arange(1.0, 4.0)
    return figures.Series(label, clients, rounds, 100 * rounds, rounds / 10, np.full(3, math.nan), (0.3, math.nan))


def test_a_method_has_one_colour_and_a_client_count_one_dash_in_all_figures() -> None:
    drawn = [one(label, clients) for clients in (10, 100) for label in ("sgd", "sam")]
    curves = figures.accuracy_curves(drawn, "rounds").axes[0].get_lines()
    colours = [line.get_color() for line in curves]
    assert colours == [figures.COLOURS[0], figures.COLOURS[1]] * 2
    assert [line.get_marker() for line in curves] == ["o", "o", "s", "s"]
    points = figures.accuracy_against_clients(drawn).axes[0].containers
    assert [container[0].get_color() for container in points] == colours[:2]


def test_more_methods_than_colours_are_told_apart_by_their_markers() -> None:
    drawn = [one(f"method {i}", 10) for i in range(20)]
    lines = figures.accuracy_curves(drawn, "rounds").axes[0].get_lines()
    assert len({(line.get_color(), line.get_fillstyle()) for line in lines}) == 20


def test_a_cross_ends_a_curve_that_diverged() -> None:
    series = figures.Series("sgd", 1, np.arange(1.0, 4), np.arange(3.0), np.array([0.1, 0.2, math.nan]), np.full(3, math.nan), None)
    _, cross = figures.accuracy_curves([series], "rounds").axes[0].get_lines()
    assert (cross.get_marker(), np.asarray(cross.get_xydata()).tolist()) == ("x", [[2.0, 20.0]])


def test_legend_lies_outside_the_axes() -> None:
    figure = figures.accuracy_curves([one("a method with a rather long name, and more of it", n) for n in (1, 2, 3)], "rounds")
    figures.encode(figure, "png")
    (axes,), (legend,) = figure.axes, figure.legends
    box = axes.get_tightbbox()
    assert box is not None and legend.get_window_extent().y1 <= box.y0


def test_picture_of_holdings_shows_a_hundred_clients_at_most() -> None:
    figure = figures.holdings(np.ones((250, 100), dtype=int))
    bars, cells = figure.axes[:2]
    assert len(bars.patches) == 100
    assert cells.get_xlabel() == "client (the first 100 of 250)"
    figures.encode(figures.holdings(np.zeros((1, 2), dtype=int)), "svg")
