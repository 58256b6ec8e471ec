"""Corrections: what a federated algorithm adds to every local step, and what it keeps on the client."""

from __future__ import annotations

from clients.corrections.base import CORRECTIONS, Correction, LocalOutcome, Payload, Vectors, build
from clients.corrections.client_momentum import ClientMomentum
from clients.corrections.control_variate import ControlVariate
from clients.corrections.dual import Dual
from clients.corrections.ema_teacher import EmaTeacher
from clients.corrections.fedmoswa import MovingVariate
from clients.corrections.fedsmoo import SmooDual
from clients.corrections.fedwmsam import PersonalMomentum
from clients.corrections.global_point import GlobalPoint
from clients.corrections.lookback import Lookback
from clients.corrections.none import NoCorrection
from clients.corrections.normalized import Normalized
from clients.corrections.private import Private
from clients.corrections.prox_correction import ProxCorrection
from clients.corrections.proximal import Proximal

__all__ = [
    "CORRECTIONS",
    "ClientMomentum",
    "ControlVariate",
    "Correction",
    "Dual",
    "EmaTeacher",
    "GlobalPoint",
    "LocalOutcome",
    "Lookback",
    "MovingVariate",
    "NoCorrection",
    "Normalized",
    "Payload",
    "PersonalMomentum",
    "Private",
    "ProxCorrection",
    "Proximal",
    "SmooDual",
    "Vectors",
    "build",
]

CORRECTIONS.update(
    {
        "none": NoCorrection,
        "proximal": Proximal,
        "control_variate": ControlVariate,
        "dual": Dual,
        "client_momentum": ClientMomentum,
        "prox_correction": ProxCorrection,
        "fedsmoo": SmooDual,
        "lookback": Lookback,
        "normalized": Normalized,
        "global_point": GlobalPoint,
        "ema_teacher": EmaTeacher,
        "fedmoswa": MovingVariate,
        "fedwmsam": PersonalMomentum,
        "private": Private,
    }
)
