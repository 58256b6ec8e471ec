"""What a local step costs: examples passed forward, and forward and backward, as a method declares it.

Formulas name the method's hyperparameters and the letters of `CostVariables`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

# The letters of `CostVariables` in words.
LETTERS = {"B": "examples in a batch", "S": "local steps in a round", "p": "share of the steps that pass backward twice"}


class EvaluationsPerStep(NamedTuple):
    """Evaluations per example and local step.

    Attributes:
        forward: Forward only.
        backward: Forward and backward: gradient evaluations.
    """

    forward: float
    backward: float


@dataclass(frozen=True)
class CostVariables:
    """What a cost depends on besides hyperparameters.

    Attributes:
        B: Examples of a batch.
        S: Local steps of a round.
        p: Share of the steps that pass backward twice, as counted: for methods where it depends on the training.
    """

    B: int
    S: int
    p: float


@dataclass(frozen=True)
class Formula:
    """A cost that is no plain number: in words, and computed from the optimizer and the variables."""

    text: str
    value: Callable[[Any, CostVariables], float]


@dataclass(frozen=True)
class StepCost:
    """The declared cost of a step, per example.

    Attributes:
        forward: Evaluations forward only.
        backward: Evaluations forward and backward: gradient evaluations.
        note: What the formulas' texts leave out: other cases, usual values.
    """

    forward: float | Formula = 0
    backward: float | Formula = 1
    note: str = ""

    def __str__(self) -> str:
        """The cost in a sentence, with the letters that it uses.

        >>> print(StepCost(forward=1, backward=2))
        1 forward, 2 forward and backward, per example and local step.
        """
        forward, backward = self.texts()
        letters = [f"{letter} {meaning}" for letter, meaning in LETTERS.items() if re.search(rf"\b{letter}\b", f"{forward} {backward}")]
        counts = f"{forward} forward, {backward} forward and backward, per example and local step"
        return "; ".join(filter(None, [counts, ", ".join(letters), self.note])) + "."

    def texts(self) -> tuple[str, str]:
        """Both costs in words."""
        forward, backward = (cost.text if isinstance(cost, Formula) else f"{cost:g}" for cost in (self.forward, self.backward))
        return forward, backward

    def evaluations(self, optimizer: Any, variables: CostVariables) -> EvaluationsPerStep:
        """Both costs of an optimizer as numbers."""
        forward, backward = (
            float(cost.value(optimizer, variables) if isinstance(cost, Formula) else cost) for cost in (self.forward, self.backward)
        )
        return EvaluationsPerStep(forward, backward)
