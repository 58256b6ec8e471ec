"""The spectrum of the Hessian H of the loss from products H v: top eigenvalues, trace, density.

Legend: `w, v, r: (P,)`; a basis is a list of orthonormal vectors (P,); `m`: Lanczos steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from fedsam.config import ConfigError
from fedsam.evaluation.loss import CountedLoss, EvaluationCost, Loss, mean_and_error

Product = Callable[[Tensor], Tensor]  # v -> H v

MAX_LANCZOS_STEPS = 100
MIN_PROBES = 10  # a standard error from fewer says little


@dataclass(frozen=True)
class Tridiagonal:
    """The result of m Lanczos steps: the symmetric tridiagonal matrix T (m, m) and the norm of the next vector.

    Attributes:
        alphas: Diagonal of T (m,).
        betas: Off-diagonal of T (m - 1,).
        last_beta: Norm of the next vector, before it is normalized.
    """

    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    last_beta: float

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues of T ascending, their quadrature weights (which sum to 1), and their residuals |H u - theta u|; (m,) each."""
        off = torch.tensor(self.betas, dtype=torch.float64)
        t = torch.diag(torch.tensor(self.alphas, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(t)
        return values, vectors[0] ** 2, self.last_beta * vectors[-1].abs()


def lanczos(product: Product, start: Tensor, refill: Callable[[], Tensor] | None = None) -> Iterator[Tridiagonal]:
    """Lanczos with full reorthogonalization from start / |start|; yields after every step, P times at most.

    Memory: one vector per step.

    Args:
        product: v -> H v.
        start: First vector (P,), not zero.
        refill: Draws a vector to continue with when the basis spans an invariant subspace; None: the iteration ends there.

    Raises:
        FloatingPointError: A product is not finite, as after a run that diverged.
    """
    basis, scale = [start / torch.linalg.vector_norm(start)], 0.0
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        r = product(basis[-1])
        alphas.append(float(torch.dot(basis[-1], r)))
        r = _orthogonal(r, basis)
        beta = float(torch.linalg.vector_norm(r))
        if not math.isfinite(alphas[-1] + beta):
            raise FloatingPointError(f"Hessian-vector product {len(alphas)} is not finite")
        yield Tridiagonal(tuple(alphas), tuple(betas), beta)
        scale = max(scale, abs(alphas[-1]), beta)
        if len(basis) == len(start):
            return
        if beta <= 10 * torch.finfo(start.dtype).eps * scale:  # rounding is all that is left
            if refill is None:
                return
            r, beta = _orthogonal(refill(), basis), 0.0
        betas.append(beta)
        basis.append(r.div_(torch.linalg.vector_norm(r)))  # in place, because the basis dominates memory


def _orthogonal(r: Tensor, basis: list[Tensor]) -> Tensor:
    """r minus its projection on the basis, applied twice against rounding errors."""
    left = r.clone()
    for q in (*basis, *basis):
        left.sub_(q, alpha=float(torch.dot(q, left)))  # in place, because this dominates time for a large basis
    return left


@dataclass(frozen=True)
class TopEigenvalues:
    """Eigenvalues of H at the ends of its spectrum.

    Attributes:
        values: The k algebraically largest, descending.
        errors: Their residuals: an eigenvalue lies no farther from each.
        smallest: The algebraically smallest: negative curvature, if below 0.
        smallest_error: Its residual.
        converged: Whether the residual of each of `values` is within the tolerance.
        steps: m, Lanczos steps made.
    """

    values: tuple[float, ...]
    errors: tuple[float, ...]
    smallest: float
    smallest_error: float
    converged: bool
    steps: int
    cost: EvaluationCost


def hessian_top(
    loss: Loss, w: Tensor, rng: torch.Generator, *, k: int = 5, tol: float = 1e-3, max_steps: int = MAX_LANCZOS_STEPS
) -> TopEigenvalues:
    """The k algebraically largest eigenvalues at `w`, and the smallest, by Lanczos from a random vector.

    At least max(2 k + 10, 20) steps, then more until each of the k residuals is at most `tol` times its value, or `max_steps`.

    Raises:
        ConfigError: k is not in 1..P, or `max_steps` is below the least number of steps.
    """
    p, least = len(w), max(2 * k + 10, 20)
    if not 1 <= k <= p:
        raise ConfigError(f"k: {k} is not allowed: 1 to the {p} parameters")
    if max_steps < min(least, p):
        raise ConfigError(f"max_steps: {max_steps} is not allowed: at least {min(least, p)} for {k} eigenvalues")
    counted, draw = CountedLoss(loss), partial(_normal, w, rng)
    for m, t in enumerate(islice(lanczos(partial(counted.hvp, w), draw(), draw), max_steps), start=1):
        if m < min(least, p):
            continue
        top = _top(t, k, tol, counted)
        if top.converged:
            break
    return top


def _top(t: Tridiagonal, k: int, tol: float, counted: CountedLoss) -> TopEigenvalues:
    values, _, residuals = t.ritz()
    largest, errors = values.flip(0)[:k], residuals.flip(0)[:k]
    return TopEigenvalues(
        values=tuple(largest.tolist()),
        errors=tuple(errors.tolist()),
        smallest=float(values[0]),
        smallest_error=float(residuals[0]),
        converged=bool((errors <= tol * largest.abs()).all()),
        steps=len(values),
        cost=counted.cost,
    )


@dataclass(frozen=True)
class TraceEstimate:
    """An estimate of the trace.

    Attributes:
        value: Mean over probes.
        error: Its standard error.
        probes: Number of probes.
        cost: Evaluations made.
    """

    value: float
    error: float
    probes: int
    cost: EvaluationCost


def hessian_trace(loss: Loss, w: Tensor, rng: torch.Generator, *, probes: int = 100, tol: float = 0.01) -> TraceEstimate:
    """The trace of H at `w` by Hutchinson's estimate: the mean of <v, H v> over probes v of entries +-1.

    Stops after `probes` probes, or earlier once the standard error is at most `tol` times the mean (`MIN_PROBES` at least).

    Raises:
        ConfigError: `probes` is below 2.
    """
    if probes < 2:
        raise ConfigError(f"probes: {probes} is not allowed: at least 2, for a standard error")
    return hutchinson(loss, w, (_signs(w, rng) for _ in range(probes)), tol)


def hutchinson(loss: Loss, w: Tensor, probes: Iterable[Tensor], tol: float = 0.0) -> TraceEstimate:
    """The trace of H at `w` from given probes (P,), at least 2; stops early as `hessian_trace`."""
    counted, samples = CountedLoss(loss), []
    for v in probes:
        samples.append(float(torch.dot(v, counted.hvp(w, v))))
        if len(samples) >= MIN_PROBES:
            mean, error = mean_and_error(torch.tensor(samples, dtype=torch.float64))
            if float(error) <= tol * abs(float(mean)):
                break
    mean, error = mean_and_error(torch.tensor(samples, dtype=torch.float64))
    return TraceEstimate(float(mean), float(error), len(samples), counted.cost)


@dataclass(frozen=True)
class SpectralDensity:
    """The eigenvalue density of H as quadrature rules, one per probe.

    Attributes:
        nodes: Per probe: Ritz values (m,), ascending.
        weights: Per probe: their weights (m,), which sum to 1.
        parameters: P, the number of eigenvalues.
    """

    nodes: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    parameters: int
    cost: EvaluationCost

    def at(self, grid: Tensor, width: float | None = None) -> tuple[Tensor, Tensor]:
        """Density and its standard error over probes at each point of `grid` (G,); its integral is 1.

        Args:
            width: Standard deviation of the Gaussian in place of each node; default: range of the nodes / m.

        Raises:
            ConfigError: The width is not above 0; the default is not when all eigenvalues are equal.
        """
        every = torch.cat(self.nodes)
        sigma = float(every.max() - every.min()) / max(map(len, self.nodes)) if width is None else width
        if not sigma > 0:
            raise ConfigError(f"width: {sigma} is not allowed: more than 0")
        curves = [
            (weights * torch.exp(-0.5 * ((grid.double()[:, None] - nodes) / sigma) ** 2)).sum(dim=1) / (sigma * math.sqrt(2 * math.pi))
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        return mean_and_error(torch.stack(curves))

    def trace(self) -> tuple[float, float]:
        """The trace of H, and its standard error over probes."""
        pairs = zip(self.nodes, self.weights, strict=True)
        mean, error = mean_and_error(self.parameters * torch.stack([torch.dot(nodes, weights) for nodes, weights in pairs]))
        return float(mean), float(error)


def hessian_density(loss: Loss, w: Tensor, rng: torch.Generator, *, probes: int = 10, steps: int = 80) -> SpectralDensity:
    """The eigenvalue density at `w` by stochastic Lanczos quadrature from probes of entries +-1.

    Raises:
        ConfigError: `probes` is below 2 or `steps` below 1.
    """
    if probes < 2 or steps < 1:
        key, given, least = ("probes", probes, 2) if probes < 2 else ("steps", steps, 1)
        raise ConfigError(f"{key}: {given} is not allowed: at least {least}")
    return quadrature(loss, w, (_signs(w, rng) for _ in range(probes)), steps)


def quadrature(loss: Loss, w: Tensor, probes: Iterable[Tensor], steps: int) -> SpectralDensity:
    """The eigenvalue density at `w` from given probes (P,)."""
    counted, rules = CountedLoss(loss), []
    for probe in probes:
        *_, last = islice(lanczos(partial(counted.hvp, w), probe), steps)
        values, weights, _ = last.ritz()
        rules.append((values, weights))
    nodes, shares = zip(*rules, strict=True)
    return SpectralDensity(nodes, shares, len(w), counted.cost)


def _normal(w: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(w.shape, generator=rng, device=rng.device, dtype=w.dtype).to(w.device)


def _signs(w: Tensor, rng: torch.Generator) -> Tensor:
    return (torch.randint(2, w.shape, generator=rng, device=rng.device) * 2 - 1).to(w)
