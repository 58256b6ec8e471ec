"""SAMPa: sharpness-aware minimization whose two passes do not wait for each other.

Legend: `w, h, a, y: (..., P)`; `state["h"]` is the gradient at the last look-ahead point, `state["x"]`, `state["y"]` its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clients.objective import Batch
from clients.optimizers.base import Gradient, State, Step, Task, ball
from clients.optimizers.cost import StepCost
from clients.optimizers.sam import SAM
from fedsam.config import Fraction, NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class SAMPa(SAM):
    """Perturb along the gradient of a look-ahead point and on its batch, the previous one, while the current batch looks ahead.

    The first step from a fresh state is a plain one (a single pass), so each round begins with a step of the base optimizer; with few
    local steps little else is left. h and the batch refer to the weights they come from and never outlive a round.
    The reported losses are those of the current batch at the look-ahead point.
    """

    source = (
        "Xie et al., 2024, arXiv:2410.10683, in the form of LIONS-EPFL/SAMPa: the look-ahead point takes momentum and weight decay along "
        "if there is a momentum buffer, and neither if there is none. Base `adamw` has none."
    )
    cost = StepCost(backward=2)
    # It looks ahead along the last gradient, whatever rho is.
    reduces_to_base = None
    rho: NonNegative = 0.1
    lam: Fraction = hyperparameter(0.2, "Weight of the look-ahead gradient; 1 leaves the perturbed gradient without effect.")

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """The old h and its batch belong to the old weights."""
        return {name: value for name, value in state.items() if name not in ("h", "x", "y")}

    def reduction_reason(self, steps: int) -> str | None:
        """The first step is a base step."""
        return "sampa: its first step is one of the base optimizer, and there is no other" if steps == 1 else None

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """The current batch first, so that it moves the running statistics."""
        if "h" not in state:  # nor a previous batch
            g, losses = step.grad(w)
            return g, losses, {**state, "h": g, "x": step.batch.x, "y": step.batch.y}
        h = state["h"]
        direction = h + self.weight_decay * w + self.momentum * state["v"] if "v" in state else h
        ahead, losses = step.grad(w - self.lr * direction)
        a, _ = step.objective.grad(w + ball(h, self.rho, self.norm_eps), Batch(state["x"], state["y"]))
        return (1 - self.lam) * a + self.lam * ahead, losses, {**state, "h": ahead, "x": step.batch.x, "y": step.batch.y}
