"""The figures of a report, drawn for one journal column (3.3 inches); a method looks the same in all of them."""

from experiments.reporting.figures.accuracy import Point, accuracy_against_clients, accuracy_curves, costs_against_clients, on_front, pareto
from experiments.reporting.figures.label_distribution import SHOWN, Spread, client_spread, label_distribution
from experiments.reporting.figures.landscape import Cut, Flat, flatness_against_accuracy, loss_lines, loss_planes
from experiments.reporting.figures.style import Looks, encode, looks

__all__ = [
    "SHOWN",
    "Cut",
    "Flat",
    "Looks",
    "Point",
    "Spread",
    "accuracy_against_clients",
    "accuracy_curves",
    "client_spread",
    "costs_against_clients",
    "encode",
    "flatness_against_accuracy",
    "label_distribution",
    "looks",
    "loss_lines",
    "loss_planes",
    "on_front",
    "pareto",
]
