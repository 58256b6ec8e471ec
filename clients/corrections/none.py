"""No correction."""

from __future__ import annotations

from dataclasses import dataclass

from clients.corrections.base import Correction


@dataclass(frozen=True, kw_only=True)
class NoCorrection(Correction):
    """The client descends on its own loss alone."""

    source = "McMahan et al., 2017, arXiv:1602.05629, Algorithm 1."
