"""Sharpness: the rise of the loss around a parameter vector, worst case and average in a ball, and slices of its landscape.

Legend: `w, g, d: (P,)`; `delta: (P,)` perturbation; `a: (P,)` its unit per coordinate, |w| if adaptive, else 1 (None);
`rho`: radius; `S(b) = max over the ball of L_b(w + delta) - L_b(w)` for a batch b of m examples.

Source of worst and average case: Andriushchenko et al., 2023, arXiv:2302.07011, code tml-epfl/sharpness-vs-generalization.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedsam.config import ConfigError
from fedsam.evaluation.loss import CountedLoss, EvaluationCost, Loss, mean_and_error
from fedsam.models.flat import Layout

Norm = Literal["l2", "linf"]
Ascend = Callable[[Tensor, Tensor, float, Tensor | None, float], Tensor]  # delta, g, step, a, rho -> a point of the ball

MOMENTUM = 0.75  # share of the new point
LEAST_PROGRESS = 0.75  # share of iterations that must improve on the best loss, or the step is halved
BISECTIONS = 200  # enough to exhaust float64


@dataclass(frozen=True)
class SharpnessEstimate:
    """An estimated rise of the loss.

    Attributes:
        value: Mean rise, in nats.
        error: Standard error over batches (worst case) or draws (average case); NaN for one of them.
        samples: Number of batches or draws.
        cost: Evaluations made.
    """

    value: float
    error: float
    samples: int
    cost: EvaluationCost


def sharpness_max(
    loss: Loss, w: Tensor, *, rho: float, norm: Norm = "l2", adaptive: bool = False, m: int | None = None, iterations: int = 20
) -> SharpnessEstimate:
    """Worst-case m-sharpness by projected gradient ascent: the mean of S(b) over consecutive batches of m, each with its own delta.

    A lower bound on S, never below 0. Not comparable between different m, norms or architectures. In the adaptive L2 ball it is loose: the
    released ascent moves along a g, not along the best direction a^2 g, so that `sharpness_1step` may find a little more.

    Args:
        norm: Ball of ||delta / a||, L2 or largest coordinate; adaptive: coordinates of zero weights stay fixed.
        m: Batch size; default: all examples. Where it does not divide their number, the last, smaller batch counts like the others.
        iterations: Gradient and forward evaluations of each batch.

    Raises:
        ConfigError: A number is out of range, or the norm is not known.
    """
    _check(rho, norm, m=m, iterations=iterations)
    return _over_batches(loss, m, lambda part: apgd(part, w, rho=rho, norm=norm, adaptive=adaptive, iterations=iterations)[0])


def sharpness_1step(loss: Loss, w: Tensor, *, rho: float, adaptive: bool = False, m: int | None = None) -> SharpnessEstimate:
    """m-sharpness in the L2 ball after SAM's single step to its boundary: cheap, never above the true S, possibly negative.

    Raises:
        ConfigError: A number is out of range.
    """
    _check(rho, "l2", m=m)

    def rise(part: CountedLoss) -> float:
        g, clean = part.gradient(w)
        return part.value(w + one_step(w, g, rho, adaptive)) - clean

    return _over_batches(loss, m, rise)


def sharpness_avg(
    loss: Loss, w: Tensor, rng: torch.Generator, *, rho: float, norm: Norm = "l2", adaptive: bool = False, draws: int = 20
) -> SharpnessEstimate:
    """Average-case sharpness: the mean of L(w + rho a xi) - L(w), xi independent per coordinate, N(0, 1) (l2) or uniform on [-1, 1] (linf).

    rho is a standard deviation (l2) or half a width (linf) per coordinate, not a radius: it compares to no other rho. Each draw serves
    all examples, so batches of m equal parts would give the same mean. Can be negative.

    Raises:
        ConfigError: A number is out of range, or the norm is not known.
    """
    _check(rho, norm, draws=draws)
    return average_rise(loss, w, (NOISE[norm](w, rng) for _ in range(draws)), rho=rho, adaptive=adaptive)


def average_rise(loss: Loss, w: Tensor, noise: Iterable[Tensor], *, rho: float, adaptive: bool = False) -> SharpnessEstimate:
    """Average-case sharpness from given noise xi (P,), as defined in `sharpness_avg`."""
    counted, a = CountedLoss(loss), _unit(w, adaptive)
    clean = counted.value(w)
    rises = [counted.value(w + rho * _times(xi, a)) - clean for xi in noise]
    mean, error = mean_and_error(torch.tensor(rises, dtype=torch.float64))
    return SharpnessEstimate(float(mean), float(error), len(rises), counted.cost)


def one_step(w: Tensor, g: Tensor, rho: float, adaptive: bool) -> Tensor:
    """SAM's perturbation: rho g / ||g||, adaptive: rho a^2 g / ||a g||; 0 where the gradient is."""
    scaled = _times(g, _unit(w, adaptive))
    length = torch.linalg.vector_norm(scaled)
    return rho * _times(scaled, _unit(w, adaptive)) / torch.where(length > 0, length, 1.0)


def apgd(loss: CountedLoss, w: Tensor, *, rho: float, norm: Norm, adaptive: bool, iterations: int) -> tuple[float, Tensor]:
    """S over all examples of `loss`, and the perturbation (P,) that reaches it, by the released form of auto-PGD.

    Two things differ from textbook auto-PGD, both as released: the momentum term is the iterate before the last, not a difference; on
    halving only the next gradient is taken at the best point, and the iterate goes on from where it was.
    """
    a, at = _unit(w, adaptive), checkpoints(iterations)
    delta = previous = best_delta = torch.zeros_like(w)
    clean = best = loss.value(w)
    point, step, improved, last = delta, 2 * rho, 0, 0  # `point`: where the next gradient is taken
    for k in range(iterations):
        g, _ = loss.gradient(w + point)
        z = BALLS[norm](delta, g, step, a, rho)
        delta, previous = MOMENTUM * z + (1 - MOMENTUM) * previous, delta
        point, value = delta, loss.value(w + delta)
        if value > best:
            best, best_delta, improved = value, delta, improved + 1
        if k in at:
            # The second published criterion (best and step both unchanged) is redundant: it implies that nothing improved.
            if improved < LEAST_PROGRESS * (k - last):
                step, point = step / 2, best_delta
            improved, last = 0, k
    return best - clean, best_delta


def checkpoints(iterations: int) -> tuple[int, ...]:
    """Iterations, counted from 0, after which the step may be halved.

    >>> checkpoints(20)
    (5, 9, 12, 15, 16, 18, 19)
    """
    before, share, found = 0.0, 0.22, []
    while (at := math.ceil(share * iterations)) < iterations:
        found.append(at)
        before, share = share, share + max(share - before - 0.03, 0.06)
    return tuple(found)


def ascend_l2(delta: Tensor, g: Tensor, step: float, a: Tensor | None, rho: float) -> Tensor:
    """A step of length `step` along g, in units of a, and back into the ball ||z / a||_2 <= rho."""
    z = delta + step * _times(g / (torch.linalg.vector_norm(g) + 1e-12), a)
    if a is not None:
        return project_ellipsoid(z, a, rho)
    length = torch.linalg.vector_norm(z)
    return torch.where(length > rho, z * (rho / length), z)


def ascend_linf(delta: Tensor, g: Tensor, step: float, a: Tensor | None, rho: float) -> Tensor:
    """A step of `step` along the sign of each coordinate of g, in units of a, and back into the box |z| <= rho a."""
    bound = rho * (torch.ones_like(delta) if a is None else a)
    return torch.clamp(delta + step * _times(g.sign(), a), -bound, bound)


def project_ellipsoid(z: Tensor, a: Tensor, rho: float) -> Tensor:
    """The point nearest to z where ||z / a||_2 <= rho: z / (1 + 2 nu / a^2), nu by bisection to 1e-5 rho, from inside.

    Where a is 0 the coordinate is fixed: it must be 0 in z and plays no part.
    """
    free = a > 0
    u, squared = torch.where(free, z / torch.where(free, a, 1.0), 0.0), a**2

    def shrunk(nu: float) -> Tensor:
        return torch.where(free, u * (squared / (squared + 2 * nu)), 0.0)

    length = float(torch.linalg.vector_norm(u))
    if not length > rho:
        return z
    if rho == 0:
        return torch.zeros_like(z)
    # At `high` even the coordinate of the largest a has shrunk by rho / length, the others by more.
    low, high = 0.0, float(squared.max()) / 2 * (length / rho - 1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        reached = float(torch.linalg.vector_norm(shrunk(middle)))
        low, high = (middle, high) if reached > rho else (low, middle)
        if 0 <= rho - reached <= 1e-5 * rho:
            break
    return a * shrunk(high)


def gaussian(w: Tensor, rng: torch.Generator) -> Tensor:
    """A draw (P,) from N(0, 1) per coordinate, made on the generator's device."""
    return torch.randn(w.shape, generator=rng, device=rng.device, dtype=w.dtype).to(w.device)


def uniform(w: Tensor, rng: torch.Generator) -> Tensor:
    """A draw (P,) uniform on [-1, 1] per coordinate, made on the generator's device."""
    return (2 * torch.rand(w.shape, generator=rng, device=rng.device, dtype=w.dtype) - 1).to(w.device)


BALLS: Mapping[str, Ascend] = {"l2": ascend_l2, "linf": ascend_linf}
NOISE: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {"l2": gaussian, "linf": uniform}


@dataclass(frozen=True)
class LossSlice:
    """Exact losses along a line (A,) or over a plane (A, A), at the multiples `alphas` of its directions."""

    alphas: tuple[float, ...]
    losses: Tensor
    cost: EvaluationCost


def filter_normalized(d: Tensor, w: Tensor, layout: Layout) -> Tensor:
    """A direction with the scale of w: each filter, or row of a matrix, has the norm of its counterpart in w; other tensors are 0.

    A filter is what belongs to one index of the first axis of a tensor with two axes or more.

    Source: Li et al., 2018, arXiv:1712.09913, section 4, and its code tomgoldstein/loss-landscape with `biasbn`.
    """
    scaled = torch.zeros_like(d)
    for segment in layout.segments:
        if len(segment.shape) >= 2:
            rows, filters = (vector[segment.slice].view(segment.shape[0], -1) for vector in (d, w))
            lengths, wanted = (torch.linalg.vector_norm(part, dim=1, keepdim=True) for part in (rows, filters))
            scaled[segment.slice] = (rows * (wanted / (lengths + 1e-10))).flatten()
    return scaled


def slice_1d(loss: Loss, w: Tensor, d: Tensor, alphas: Sequence[float]) -> LossSlice:
    """Losses at w + alpha d: `d = filter_normalized(gaussian(w, rng), w, layout)` for a slice, `w2 - w` for the line to w2."""
    counted = CountedLoss(loss)
    losses = torch.tensor([counted.value(w + alpha * d) for alpha in alphas], dtype=torch.float64)
    return LossSlice(tuple(alphas), losses, counted.cost)


def slice_2d(loss: Loss, w: Tensor, d1: Tensor, d2: Tensor, alphas: Sequence[float]) -> LossSlice:
    """Losses (A, A) at w + alphas[i] d1 + alphas[j] d2; the directions are taken as they are, not made orthogonal."""
    counted = CountedLoss(loss)
    losses = torch.tensor([[counted.value(w + i * d1 + j * d2) for j in alphas] for i in alphas], dtype=torch.float64)
    return LossSlice(tuple(alphas), losses, counted.cost)


def _over_batches(loss: Loss, m: int | None, rise: Callable[[CountedLoss], float]) -> SharpnessEstimate:
    parts = [CountedLoss(part) for part in loss.split(m or loss.examples)]
    mean, error = mean_and_error(torch.tensor([rise(part) for part in parts], dtype=torch.float64))
    cost = EvaluationCost(sum(part.gradients for part in parts), sum(part.forwards for part in parts))
    return SharpnessEstimate(float(mean), float(error), len(parts), cost)


def _unit(w: Tensor, adaptive: bool) -> Tensor | None:
    return w.abs() if adaptive else None


def _times(vector: Tensor, a: Tensor | None) -> Tensor:
    return vector if a is None else vector * a


def _check(rho: float, norm: str, **counts: int | None) -> None:
    if not 0 <= rho < math.inf:
        raise ConfigError(f"rho: {rho} is not allowed: a number, 0 or more")
    if norm not in BALLS:
        raise ConfigError(f"norm: {norm!r} is not known; allowed: {', '.join(BALLS)}")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name}: {count} is not allowed: 1 or more")
