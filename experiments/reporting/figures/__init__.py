"""The figures of a report, one journal column wide (3.3 inches), with one style for each method."""

from experiments.reporting.figures.accuracy import (
    CostPoint,
    accuracy_against_clients,
    accuracy_curves,
    costs_against_clients,
    front_points,
    loss_curves,
    pareto,
)
from experiments.reporting.figures.label_distribution import (
    MAX_CLIENTS,
    ClassAccuracy,
    ClientAccuracy,
    class_accuracies,
    client_accuracies,
    label_distribution,
)
from experiments.reporting.figures.landscape import FlatnessPoint, MethodSlice, flatness_against_accuracy, loss_lines, loss_planes
from experiments.reporting.figures.style import FORMATS, MethodStyles, encode, method_styles, undrawable

__all__ = [
    "FORMATS",
    "MAX_CLIENTS",
    "ClassAccuracy",
    "ClientAccuracy",
    "CostPoint",
    "FlatnessPoint",
    "MethodSlice",
    "MethodStyles",
    "accuracy_against_clients",
    "accuracy_curves",
    "class_accuracies",
    "client_accuracies",
    "costs_against_clients",
    "encode",
    "flatness_against_accuracy",
    "front_points",
    "label_distribution",
    "loss_curves",
    "loss_lines",
    "loss_planes",
    "method_styles",
    "pareto",
    "undrawable",
]
