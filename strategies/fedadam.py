"""Adam on the server.

Legend: `m, v: (P,)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsam.documentation import hyperparameter
from strategies.adaptive import Adaptive, Decay


@dataclass(frozen=True, kw_only=True)
class FedAdam(Adaptive):
    """The global vector moves by Adam's step for the mean delta."""

    source = "Reddi et al., 2021, arXiv:2003.00295, Algorithm 2, FedAdam, which has no bias correction."
    beta2: Decay = hyperparameter(0.99, "Decay of the second moment.")
    bias_correction: Literal["none", "flower", "torch"] = hyperparameter(
        "none", "None; Flower's, whose exponent is one too large; or torch.optim.Adam's, which corrects the root before tau is added."
    )

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The moving average."""
        return self.beta2 * v + (1 - self.beta2) * square

    def move(self, m: Tensor, v: Tensor, k: int) -> Tensor:
        """Adam's step."""
        if self.bias_correction == "none":
            return super().move(m, v, k)
        k = k + 1 if self.bias_correction == "flower" else k
        first, second = 1 - self.beta1**k, math.sqrt(1 - self.beta2**k)
        if self.bias_correction == "flower":
            return second / first * super().move(m, v, k)
        return self.lr / first * m / (v.sqrt() / second + self.tau)
