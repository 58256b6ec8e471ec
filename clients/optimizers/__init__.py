"""Local optimizers: where a step takes its gradient and how the weights move."""

from __future__ import annotations

from clients.objective import Batch, Objective
from clients.optimizers.aesam import AESAM
from clients.optimizers.asam import ASAM
from clients.optimizers.base import Gradient, LocalOptimizer, State, Step, StepPlan, Task, ball, dot, norm
from clients.optimizers.cost import Formula, StepCost
from clients.optimizers.crsam import CRSAM
from clients.optimizers.esam import ESAM
from clients.optimizers.fedgf import FedGF
from clients.optimizers.fedgmt import FedGMT
from clients.optimizers.fedlesam import FedLESAM
from clients.optimizers.fednsam import FedNSAM
from clients.optimizers.fedsmoo import FedSMOO
from clients.optimizers.fedsol import FedSOL
from clients.optimizers.fedwmsam import FedWMSAM
from clients.optimizers.focal_sam import FocalSAM
from clients.optimizers.fsam import FSAM
from clients.optimizers.gcsam import GCSAM
from clients.optimizers.gsam import GSAM
from clients.optimizers.ksam import KSAM
from clients.optimizers.looksam import LookSAM
from clients.optimizers.m_sharpness_sam import MSharpnessSAM
from clients.optimizers.mixed import Mixed
from clients.optimizers.msam import MSAM
from clients.optimizers.multistep_sam import MultistepSAM
from clients.optimizers.sam import SAM
from clients.optimizers.sam_on import SAMON
from clients.optimizers.sampa import SAMPa
from clients.optimizers.sgd import SGD
from clients.optimizers.sparse_sam import DynamicSparseSAM, SparseSAM
from clients.optimizers.torch.adapter import TorchOptimizer, as_torch
from clients.optimizers.vsam import VSAM
from clients.optimizers.warm_sam import WarmSAM
from clients.optimizers.wsam import WSAM
from clients.optimizers.zosam import ZOSAM
from fedsam import config, registry
from fedsam.registry import ClassContract, Registry

__all__ = [
    "AESAM",
    "ASAM",
    "CRSAM",
    "ESAM",
    "FSAM",
    "GCSAM",
    "GSAM",
    "KSAM",
    "MSAM",
    "OPTIMIZERS",
    "SAM",
    "SAMON",
    "SGD",
    "VSAM",
    "WSAM",
    "ZOSAM",
    "Batch",
    "DynamicSparseSAM",
    "FedGF",
    "FedGMT",
    "FedLESAM",
    "FedNSAM",
    "FedSMOO",
    "FedSOL",
    "FedWMSAM",
    "FocalSAM",
    "Formula",
    "Gradient",
    "LocalOptimizer",
    "LookSAM",
    "MSharpnessSAM",
    "Mixed",
    "MultistepSAM",
    "Objective",
    "SAMPa",
    "SparseSAM",
    "State",
    "Step",
    "StepCost",
    "StepPlan",
    "Task",
    "TorchOptimizer",
    "WarmSAM",
    "as_torch",
    "ball",
    "build",
    "dot",
    "norm",
]

OPTIMIZERS = Registry[type[LocalOptimizer]](
    "optimizers",
    ClassContract(LocalOptimizer),
    {
        "sgd": SGD,
        "sam": SAM,
        "asam": ASAM,
        "msam": MSAM,
        "fsam": FSAM,
        "vsam": VSAM,
        "multistep_sam": MultistepSAM,
        "esam": ESAM,
        "fedgf": FedGF,
        "fedgmt": FedGMT,
        "fedlesam": FedLESAM,
        "fednsam": FedNSAM,
        "fedwmsam": FedWMSAM,
        "mixed": Mixed,
        "fedsmoo": FedSMOO,
        "fedsol": FedSOL,
        "warm_sam": WarmSAM,
        "looksam": LookSAM,
        "gsam": GSAM,
        "sampa": SAMPa,
        "crsam": CRSAM,
        "focal_sam": FocalSAM,
        "gcsam": GCSAM,
        "sam_on": SAMON,
        "sparse_sam": SparseSAM,
        "dynamic_sparse_sam": DynamicSparseSAM,
        "m_sharpness_sam": MSharpnessSAM,
        "wsam": WSAM,
        "aesam": AESAM,
        "ksam": KSAM,
        "zosam": ZOSAM,
    },
)


def build(component: config.Component) -> LocalOptimizer:
    """The local optimizer that `client.optimizer` names. Raises `ConfigError` for an unknown name or a wrong hyperparameter."""
    optimizer: LocalOptimizer = registry.build(OPTIMIZERS, component, "client.optimizer")
    return optimizer
