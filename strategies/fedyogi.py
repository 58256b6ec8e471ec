"""Yogi on the server.

Legend: `v: (P,)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsam.config import Positive
from fedsam.documentation import hyperparameter
from strategies.adaptive import Adaptive, Decay


@dataclass(frozen=True, kw_only=True)
class FedYogi(Adaptive):
    """As FedAdam, but the second moment shrinks slowly."""

    source = "Reddi et al., 2021, arXiv:2003.00295, Algorithm 2, FedYogi; defaults as in Flower."
    lr: Positive = 0.01
    beta2: Decay = hyperparameter(0.99, "Decay of the second moment.")

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """v - (1 - beta2) square sign(v - square)."""
        return v - (1 - self.beta2) * square * torch.sign(v - square)
