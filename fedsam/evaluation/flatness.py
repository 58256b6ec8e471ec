"""Measures of flatness of the loss at a parameter vector, as named values with error and cost.

Probes, noise and directions depend on the seed alone and are drawn on the CPU: all methods, client counts and devices share them.

Legend: `w: (P,)`, `buffers: (Q,)`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fedsam.config import Flatness
from fedsam.data.augmentation import normalize
from fedsam.data.datasets import Dataset, Images
from fedsam.evaluation.hessian import TopEigenvalues, hessian_top, hessian_trace
from fedsam.evaluation.loss import EvaluationCost, Loss, batch_sizes
from fedsam.evaluation.sharpness import (
    LossSlice,
    SharpnessEstimate,
    filter_normalized,
    gaussian,
    sharpness_avg,
    sharpness_max,
    slice_1d,
    slice_2d,
)
from fedsam.models.network import Network
from fedsam.seeds import tensor_stream


@dataclass(frozen=True)
class FlatnessResult:
    """The result of one measure.

    Attributes:
        values: Estimates by name, and the error of each as `<name>_error`; NaN where the loss is not finite.
        cost: Evaluations made.
        seconds: Wall time.
        slice: The losses of a slice; None for other measures.
    """

    values: Mapping[str, float]
    cost: EvaluationCost
    seconds: float = 0.0
    slice: LossSlice | None = None


Measurement = Callable[[Loss, Tensor, Flatness, int], FlatnessResult]  # loss, w, settings, seed


def measure(
    name: str, network: Network, w: Tensor, buffers: Tensor, images: Images, dataset: Dataset, settings: Flatness, seed: int
) -> FlatnessResult:
    """Measure the flatness of the mean loss over `images`, without augmentation, at `w`.

    Args:
        name: A key of `FLATNESS_MEASURES`.
        dataset: Source of the normalization constants.
        seed: Of probes, noise and directions.
    """
    start = time.perf_counter()
    prepare = partial(normalize, mean=dataset.mean, std=dataset.std, dtype=w.dtype)
    # An infinite weight need not make the loss infinite: a dead unit hides it.
    w = w if bool(torch.isfinite(w).all()) else torch.full_like(w, math.nan)
    with network.evaluating():
        loss = Loss(network.module, buffers, images.x, images.y, batch_sizes(len(images.y), settings.batch_size), prepare)
        found = FLATNESS_MEASURES[name](loss, w, settings, seed)
    return replace(found, seconds=time.perf_counter() - start)


def top(loss: Loss, w: Tensor, settings: Flatness, seed: int) -> FlatnessResult:
    """`hessian_top_1` to `hessian_top_K` and `hessian_smallest`, algebraically; their errors are Lanczos residuals."""
    k = settings.eigenvalues
    try:
        found = hessian_top(loss, w, tensor_stream(seed, "flatness start"), k=k)
    except FloatingPointError:  # the run diverged: the result is NaN
        unknown = (math.nan,) * k
        found = TopEigenvalues(unknown, unknown, math.nan, math.nan, converged=False, steps=0, cost=EvaluationCost(0, 0))
    values = {f"hessian_top_{i}": value for i, value in enumerate(found.values, start=1)}
    errors = {f"hessian_top_{i}_error": error for i, error in enumerate(found.errors, start=1)}
    return FlatnessResult(
        values | errors | {"hessian_smallest": found.smallest, "hessian_smallest_error": found.smallest_error}, found.cost
    )


def trace(loss: Loss, w: Tensor, settings: Flatness, seed: int) -> FlatnessResult:
    """`hessian_trace`; its error is a standard error over probes."""
    found = hessian_trace(loss, w, tensor_stream(seed, "flatness probes"), probes=settings.probes)
    return FlatnessResult({"hessian_trace": found.value, "hessian_trace_error": found.error}, found.cost)


def worst(loss: Loss, w: Tensor, settings: Flatness, seed: int) -> FlatnessResult:
    """`sharpness_worst` of batches of `batch_size`; its error is a standard error over batches."""
    found = sharpness_max(loss, w, rho=settings.rho, m=settings.batch_size, iterations=settings.iterations)
    return _estimated("sharpness_worst", found)


def worst_adaptive(loss: Loss, w: Tensor, settings: Flatness, seed: int) -> FlatnessResult:
    """`sharpness_worst_adaptive` of batches of `batch_size`; its error is a standard error over batches."""
    found = sharpness_max(loss, w, rho=settings.rho_adaptive, adaptive=True, m=settings.batch_size, iterations=settings.iterations)
    return _estimated("sharpness_worst_adaptive", found)


def average(loss: Loss, w: Tensor, settings: Flatness, seed: int) -> FlatnessResult:
    """`sharpness_average`; its error is a standard error over draws."""
    found = sharpness_avg(loss, w, tensor_stream(seed, "flatness noise"), rho=settings.rho_average, draws=settings.draws)
    return _estimated("sharpness_average", found)


def average_adaptive(loss: Loss, w: Tensor, settings: Flatness, seed: int) -> FlatnessResult:
    """`sharpness_average_adaptive`, with the noise of `average`; its error is a standard error over draws."""
    rho, rng = settings.rho_average_adaptive, tensor_stream(seed, "flatness noise")
    return _estimated("sharpness_average_adaptive", sharpness_avg(loss, w, rng, rho=rho, adaptive=True, draws=settings.draws))


def line(loss: Loss, w: Tensor, settings: Flatness, seed: int) -> FlatnessResult:
    """The slice along one random, filter-normalized direction."""
    found = slice_1d(loss, w, _direction(loss, w, seed, 1), _alphas(settings.points))
    return FlatnessResult({}, found.cost, slice=found)


def plane(loss: Loss, w: Tensor, settings: Flatness, seed: int) -> FlatnessResult:
    """The slice along two random, filter-normalized directions; the first is that of `line`."""
    found = slice_2d(loss, w, _direction(loss, w, seed, 1), _direction(loss, w, seed, 2), _alphas(settings.points))
    return FlatnessResult({}, found.cost, slice=found)


FLATNESS_MEASURES: Mapping[str, Measurement] = {
    "top": top,
    "trace": trace,
    "worst": worst,
    "worst_adaptive": worst_adaptive,
    "average": average,
    "average_adaptive": average_adaptive,
    "line": line,
    "plane": plane,
}


def _estimated(name: str, found: SharpnessEstimate) -> FlatnessResult:
    return FlatnessResult({name: found.value, f"{name}_error": found.error}, found.cost)


def _direction(loss: Loss, w: Tensor, seed: int, index: int) -> Tensor:
    return filter_normalized(gaussian(w, tensor_stream(seed, "flatness direction", index)), w, loss.layout)


def _alphas(points: int) -> tuple[float, ...]:
    return tuple(2 * i / (points - 1) - 1 for i in range(points))
