"""One pass over images, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsam.data.datasets import Dataset, Images
from fedsam.evaluation.accuracy import Evaluation, Scores, calibration_error, client_accuracies, client_accuracy_summary, evaluate, score
from fedsam.models.network import Network

PIXELS = torch.tensor([0, 255, 255, 0, 255], dtype=torch.uint8).view(5, 1, 1, 1)
IMAGES = Images(PIXELS, torch.tensor([0, 1, 0, 0, 1]))
DATASET = Dataset("pixels", IMAGES, IMAGES, classes=3, mean=(0.0,), std=(1.0,), augment=())


def lamp() -> tuple[Network, Tensor]:
    """Says class 1 to a bright pixel and class 0 to a dark one, with logits (1, 0, 0) and (0, 2, 0)."""
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(1, 3)), dtype=torch.float64)
    return network, torch.tensor([-1.0, 2.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)


def found(correct: tuple[int, ...], held: tuple[int, ...]) -> Evaluation:
    return Evaluation(total_loss=0.0, correct_per_class=correct, examples_per_class=held, calibration_error=0.0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 500])
def test_loss_accuracy_and_classes_by_hand(batch_size: int) -> None:
    network, w = lamp()
    got = evaluate(network, w, network.buffers, IMAGES, DATASET, batch_size)
    dark, bright = math.e / (math.e + 2), math.e**2 / (math.e**2 + 2)
    missed = 1 / (math.e**2 + 2)
    assert got.loss == pytest.approx(-(2 * math.log(dark) + 2 * math.log(bright) + math.log(missed)) / 5)
    assert (got.correct_per_class, got.examples_per_class) == ((2, 2, 0), (3, 2, 0))
    assert (got.examples, got.accuracy) == (5, 0.8)
    assert got.calibration_error == pytest.approx((2 * abs(1 - dark) + 3 * abs(2 / 3 - bright)) / 5)


def test_scores_of_parts_come_to_what_one_pass_does() -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (90, 1, 1, 1), generator=draw, dtype=torch.uint8)
    images = Images(pixels, torch.randint(3, (90,), generator=draw))
    network, w = Network(nn.Sequential(nn.Flatten(), nn.Linear(1, 3))), torch.randn(6, generator=draw)
    parts = [Images(images.x[start : start + 28], images.y[start : start + 28]) for start in (0, 28, 56, 84)]
    scores = Scores.joined([score(network, w, network.buffers, part, DATASET, 7) for part in parts])
    assert scores.evaluation(images.y, 3) == evaluate(network, w, network.buffers, images, DATASET, 7)


def test_a_batch_is_computed_in_parts_of_which_its_loss_tells_nothing() -> None:
    images = Images(PIXELS.repeat(90, 1, 1, 1), IMAGES.y.repeat(90))
    network, w = lamp()
    sizes = list[int]()
    network.module.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    scores = score(network, w, network.buffers, images, DATASET, 240)
    assert sizes == [100, 100, 40, 100, 100, 10]
    of_five = evaluate(network, w, network.buffers, IMAGES, DATASET).total_loss
    assert scores.losses.tolist() == pytest.approx([48 * of_five, 42 * of_five])


@pytest.mark.parametrize(
    ("confidence", "right", "error"),
    [
        ([1.0, 1.0, 1.0, 1.0], [True, True, True, False], 0.25),
        ([0.95, 0.99], [True, False], 2 * abs(1 / 2 - 0.97) / 2),  # one bin: the mean of both
        ([0.95, 0.90], [True, False], (0.05 + 0.90) / 2),  # two bins: each for itself
        ([9 / 15, 9 / 15 + 1e-9], [True, False], (6 / 15 + 9 / 15) / 2),  # a bin holds its upper edge
        ([0.0], [False], 0.0),
    ],
)
def test_calibration_error_by_hand(confidence: list[float], right: list[bool], error: float) -> None:
    assert calibration_error(torch.tensor(confidence, dtype=torch.float64), torch.tensor(right)) == pytest.approx(error, abs=1e-8)


def test_a_diverged_network_is_not_calibrated_and_does_not_fail() -> None:
    network, w = lamp()
    got = evaluate(network, torch.full_like(w, math.nan), network.buffers, IMAGES, DATASET)
    assert math.isnan(got.loss) and math.isnan(got.calibration_error)


def test_a_client_is_as_good_as_its_classes() -> None:
    accuracies = client_accuracies(found((9, 5, 0), (10, 10, 10)), np.array([[4, 0, 0], [1, 1, 0], [1, 1, 2], [0, 0, 7]]))
    assert accuracies.tolist() == pytest.approx([0.9, 0.7, 0.35, 0.0])


def test_a_class_without_test_examples_is_unknown_to_those_who_hold_it() -> None:
    accuracies = client_accuracies(found((1, 0), (2, 0)), np.array([[3, 0], [3, 1]]))
    assert accuracies[0] == 0.5
    assert math.isnan(accuracies[1])


def test_the_mean_over_clients_with_the_whole_mix_is_the_test_accuracy() -> None:
    evaluation = found((30, 10, 20), (40, 40, 40))
    assert client_accuracies(evaluation, np.full((3, 3), 5)).tolist() == pytest.approx([evaluation.accuracy] * 3)


def test_the_spread_by_hand() -> None:
    assert client_accuracy_summary(np.array([0.2, 0.4, 0.9])) == pytest.approx({"mean": 0.5, "std": math.sqrt(0.26 / 3), "worst10": 0.2})
    assert client_accuracy_summary(np.arange(25) / 25)["worst10"] == pytest.approx(0.5 / 25)  # the worst two
