"""Multi-step SAM: several ascent steps before each descent.

Legend: `w, z, g, q: (..., P)`; K ascent steps; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from clients.optimizers.base import Gradient, State, Step, ball
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.sam import SAM
from fedsam.config import ConfigError, Count, NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class MultistepSAM(SAM):
    """Ascend K times, then descend with the last gradient or with an average of those on the way."""

    source = (
        "Kim et al., 2023, arXiv:2302.10181. Variant `average` is a reconstruction: the paper reports a simple modification, but its "
        "formula was not available; this is the normalised form of the first author's N-step class in Harry24k/MAIR. That class for N "
        "gradients is `ascent_radii` N-1 times rho/N, `descent_weights` 0 and N-1 times 1/N, `norm_eps` 1e-16, and it works for N = 3 "
        "only. There is no projection: the ascent is no longer than the sum of its radii by the triangle inequality."
    )
    cost = StepCost(
        backward=Formula("1 + ascent_steps", lambda self, _: len(self.descent_weights) or 1 + self.ascent_steps),
        note="variant `explicit`: as many as descent_weights",
    )
    rho: NonNegative = hyperparameter(0.05, "Sum of the radii of the ascent steps.")
    variant: Literal["last", "average", "explicit"] = hyperparameter(
        "average", "Descent gradient: last, that of the last point; average, the mean over the points after w; explicit, by the weights."
    )
    ascent_steps: Count = hyperparameter(2, "K, with rho/K each; 1 is SAM. Not used by variant `explicit`, nor is rho.")
    ascent_radii: tuple[NonNegative, ...] = hyperparameter((), "Variant `explicit`: the radius of each step.")
    descent_weights: tuple[float, ...] = hyperparameter(
        (), "Variant `explicit`: the weight of each gradient, K + 1 numbers, that at w first."
    )

    def __post_init__(self) -> None:
        radii, weights = len(self.ascent_radii), len(self.descent_weights)
        if self.variant != "explicit" and radii + weights:
            raise ConfigError(f"variant: {self.variant!r} is not allowed with ascent_radii or descent_weights: use 'explicit'")
        if self.variant == "explicit" and (not radii or weights != radii + 1):
            raise ConfigError(
                f"descent_weights: {weights} weights for {radii} ascent_radii are not allowed: at least one radius, one weight more"
            )

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """K ascents and the pass at their end."""
        radii, weights = self._path()
        g, losses = step.grad(w)
        z, q = w, weights[0] * g
        for radius, weight in zip(radii, weights[1:], strict=True):
            z = z + ball(g, radius, self.norm_eps)
            g, _ = step.grad(z)
            q = q + weight * g
        return q, losses, state

    def _path(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Radii (K) and descent weights (K + 1)."""
        k = self.ascent_steps
        if self.variant == "explicit":
            return self.ascent_radii, self.descent_weights
        weights = (1 / k,) * k if self.variant == "average" else (0.0,) * (k - 1) + (1.0,)
        return (self.rho / k,) * k, (0.0, *weights)
