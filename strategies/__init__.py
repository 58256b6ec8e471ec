"""Server strategies: how the updates of a cohort become the next global vector."""

from __future__ import annotations

from strategies.base import STRATEGIES, Aggregate, ServerRule, State, Wrapping, build
from strategies.ema import Ema
from strategies.fedacg import FedACG
from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedcm import FedCM
from strategies.feddyn import FedDyn
from strategies.fedexp import FedExP
from strategies.fedgf import FedGF
from strategies.fedgloss import FedGloSS
from strategies.fedmoswa import FedMoSWA
from strategies.fednova import FedNova
from strategies.fednsam import FedNSAM
from strategies.fedsmoo import FedSMOO
from strategies.fedwmsam import FedWMSAM
from strategies.fedyogi import FedYogi
from strategies.previous import Previous
from strategies.robust import FlowerBulyan, FlowerKrum, FlowerMedian, FlowerMultiKrum, FlowerTrimmedMean
from strategies.scaffold import Scaffold
from strategies.swa import SWA

__all__ = [
    "STRATEGIES",
    "SWA",
    "Aggregate",
    "Ema",
    "FedACG",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedCM",
    "FedDyn",
    "FedExP",
    "FedGF",
    "FedGloSS",
    "FedMoSWA",
    "FedNSAM",
    "FedNova",
    "FedSMOO",
    "FedWMSAM",
    "FedYogi",
    "FlowerBulyan",
    "FlowerKrum",
    "FlowerMedian",
    "FlowerMultiKrum",
    "FlowerTrimmedMean",
    "Previous",
    "Scaffold",
    "ServerRule",
    "State",
    "Wrapping",
    "build",
]

STRATEGIES.update(
    {
        "fedavg": FedAvg,
        "fedavgm": FedAvgM,
        "fedadagrad": FedAdagrad,
        "fedadam": FedAdam,
        "fedyogi": FedYogi,
        "scaffold": Scaffold,
        "feddyn": FedDyn,
        "fednova": FedNova,
        "fedcm": FedCM,
        "fedacg": FedACG,
        "fedexp": FedExP,
        "fedsmoo": FedSMOO,
        "fedgf": FedGF,
        "fedgloss": FedGloSS,
        "ema": Ema,
        "swa": SWA,
        "previous": Previous,
        "fedmoswa": FedMoSWA,
        "fednsam": FedNSAM,
        "fedwmsam": FedWMSAM,
        "flower_median": FlowerMedian,
        "flower_trimmed_mean": FlowerTrimmedMean,
        "flower_krum": FlowerKrum,
        "flower_multi_krum": FlowerMultiKrum,
        "flower_bulyan": FlowerBulyan,
    }
)
