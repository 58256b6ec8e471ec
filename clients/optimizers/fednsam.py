"""FedNSAM's point of evaluation, in the form of its first release.

Legend: `w, ascent: (..., P)`; "..." are client axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.optimizers.base import State, Task
from clients.optimizers.cost import StepCost
from clients.optimizers.fedlesam import FedLESAM
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter


@dataclass(frozen=True, kw_only=True)
class FedNSAM(FedLESAM):
    """Descend with the gradient where the server's momentum leads to, then a radius back uphill; the same way all round."""

    source = (
        "Liu et al., 2025, arXiv:2602.23827 (FedNSAM), first release of the authors' code, as it was meant: on PyTorch 2 that release "
        'perturbs nothing. The direction is minus the momentum (correction `lookback` with `direction = "momentum"`).'
    )
    cost = StepCost()
    reduces_to_base = {"rho": 0.0, "lookahead": 0.0}
    rho: NonNegative = hyperparameter(0.01, "Perturbation radius, in units of the parameters' L2 norm.")
    lookahead: NonNegative = hyperparameter(0.85, "How much of the momentum is looked ahead: the server's own decay in the paper.")

    def init(self, w: Tensor, task: Task) -> State:
        """The offset of the round: FedLESAM's perturbation, less what is looked ahead."""
        ascent = task.terms.get("ascent", torch.zeros_like(w))
        return {"e": super().init(w, task)["e"] - self.lookahead * ascent}
