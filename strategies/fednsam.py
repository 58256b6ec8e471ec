"""FedNSAM's server, in the form of its first release.

Legend: `w, v: (P,)`; `v` points uphill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from strategies.base import State
from strategies.fedavgm import FedAvgM


@dataclass(frozen=True, kw_only=True)
class FedNSAM(FedAvgM):
    """Server momentum, which is sent along."""

    source = (
        "Liu et al., 2025, arXiv:2602.23827 (FedNSAM), first release of the authors' code; its m is -v. Clients use it through correction "
        '`lookback` with `direction = "momentum"`; the form that is released now is server rule `fedacg`.'
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.85

    def broadcast(self, w: Tensor, state: State) -> Mapping[str, Tensor]:
        """The momentum too."""
        return {**super().broadcast(w, state), "v": state["v"]}
