"""Adagrad on the server.

Legend: `v: (P,)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from strategies.adaptive import Adaptive, Decay


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(Adaptive):
    """Scalars that have moved much move less."""

    source = "Reddi et al., 2021, arXiv:2003.00295, Algorithm 2, FedAdagrad; beta1 = 0 as in Flower."
    beta1: Decay = 0.0

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The running sum."""
        return v + square
