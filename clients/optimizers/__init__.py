"""Local optimizers: where a step takes its gradient and how the weights move."""

from __future__ import annotations

from clients.optimizers.base import LocalOptimizer
from clients.optimizers.gf import GF
from clients.optimizers.gmt import GMT
from clients.optimizers.lesam import LESAM
from clients.optimizers.mixed import Mixed
from clients.optimizers.sam import SAM
from clients.optimizers.sgd import SGD
from clients.optimizers.smoo import SMOO
from clients.optimizers.sol import SOL
from clients.optimizers.warm_sam import WarmSAM
from fedsam import config

OPTIMIZERS: dict[str, type[LocalOptimizer]] = {
    "sgd": SGD,
    "sam": SAM,
    "gf": GF,
    "gmt": GMT,
    "lesam": LESAM,
    "mixed": Mixed,
    "smoo": SMOO,
    "sol": SOL,
    "warm_sam": WarmSAM,
}


def build(part: config.Part) -> LocalOptimizer:
    """The local optimizer that `client.optimizer` names. Raises `ConfigError` for an unknown name or a wrong hyperparameter."""
    optimizer: LocalOptimizer = config.build(OPTIMIZERS, part, "client.optimizer")
    return optimizer
