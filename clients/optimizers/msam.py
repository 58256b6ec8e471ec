"""Momentum-SAM: the momentum buffer stands in for the ascent gradient, so a step needs one pass.

Legend: `w, s, g, q, v, m: (..., P)`; `c: (..., 1)`; w the weights, s the displaced weights; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clients.optimizers.base import Decay, Gradient, LocalOptimizer, State, Step, Task, norm
from clients.optimizers.cost import StepCost
from fedsam.config import ConfigError, NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class MSAM(LocalOptimizer):
    """Take the gradient at weights displaced against the momentum buffer, that is, further along the last update.

    The first step is not displaced, as its buffer is empty: with a fresh state in every round that is one step of each local
    training, and MSAM with one local step is its base. The direction settles after about 1/(1 - momentum) steps. Running
    statistics of batch normalization come from displaced weights; re-estimate them before they are used.
    """

    source = (
        "Becker et al., 2024, arXiv:2401.12033, as in MarlonBecker/MSAM: weight decay of base `sgd` acts on the displaced weights (the "
        "paper's algorithm has none), that of base `adamw` follows the Adam step. We keep the weights undisplaced and the applied "
        "coefficient c, so that w does not drift when rho changes, as it does in the released SGD form."
    )
    cost = StepCost()
    # Its weight decay follows the Adam step, which is another optimizer.
    reduces_to_base = {"rho": 0.0, "weight_decay": 0.0}
    rho: NonNegative = hyperparameter(
        3.0, "Length of the displacement, in units of the parameters' L2 norm; about ten times that of SAM. 0 is the base optimizer."
    )
    norm_eps: NonNegative = 1e-12
    form: Literal["msam", "nag"] = hyperparameter(
        "msam", "nag displaces by lr * momentum * v instead, whatever rho is: the classical Nesterov look-ahead, for comparison."
    )
    momentum: Decay = hyperparameter(0.9, "At 0 the displacement is along the previous gradient.")
    dampening: Annotated[float, Field(ge=0, le=0)] = 0.0
    nesterov: Literal[False] = False

    def __post_init__(self) -> None:
        if self.form == "nag" and self.base != "sgd":
            raise ConfigError(f"form: 'nag' is not allowed with base {self.base!r}: only with 'sgd'")

    def init(self, w: Tensor, task: Task) -> State:
        """An empty buffer, displaced by nothing."""
        return {self._buffer: torch.zeros_like(w), "c": torch.zeros_like(w[..., :1])}

    def resume(self, state: State, w: Tensor, task: Task) -> State:
        """Momentum persists, the first gradient is taken at the received weights."""
        return {**state, "c": torch.zeros_like(w[..., :1])}

    def reduction_reason(self, steps: int) -> str | None:
        return f"msam: its first step is a step of {self.base}, and there is no other" if steps == 1 else None

    def displaced(self, w: Tensor, state: State) -> Tensor:
        """s, where the next gradient is taken."""
        s: Tensor = torch.addcmul(w, state["c"], state[self._buffer], value=-1)  # w - c * v, fused
        return s

    def gradient(self, w: Tensor, state: State, step: Step) -> Gradient:
        """One pass, at the displaced weights."""
        g, losses = step.grad(self.displaced(w, state))
        return g, losses, state

    def descend(self, w: Tensor, state: State, q: Tensor) -> tuple[Tensor, State]:
        """The base step, and the displacement of the weights at which the next gradient is taken."""
        if self.base == "adamw":
            w, state = replace(self, weight_decay=0.0)._adamw(w, state, q)
            w = w * (1 - self.lr * self.weight_decay)
        else:
            q = torch.add(q, self.displaced(w, state), alpha=self.weight_decay) if self.weight_decay else q
            v = torch.add(q, state["v"], alpha=self.momentum)
            w, state = torch.sub(w, v, alpha=self.lr), {**state, "v": v}
        c = (
            torch.full_like(w[..., :1], self.lr * self.momentum)
            if self.form == "nag"
            else self.rho / (norm(state[self._buffer]) + self.norm_eps)
        )
        return w, {**state, "c": c}

    @property
    def _buffer(self) -> str:
        """The name of the momentum buffer in the state."""
        return "m" if self.base == "adamw" else "v"
