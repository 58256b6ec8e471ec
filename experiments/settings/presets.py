"""Presets: a published algorithm as its three parts, with the recipe it was published with.

To compare methods and nothing else, set the recipe (learning rate, decay, clip, weights, sampling) in the experiment: it wins over them.

Left out: FedWMSAM (arXiv:2511.22080), whose paper contradicts itself in the signs of its steps and whose released code perturbs with
misaligned tensors, so that there is no published algorithm to be faithful to; FedMRUR, FedTOGA, FedVSSAM and FedSCAM, for which there is
neither code nor a complete description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedsam.config import ConfigError, Experiment, parse
from fedsam.overrides import override

PARTS = ("client.optimizer", "client.correction", "server.strategy")


@dataclass(frozen=True)
class Method:
    """A published algorithm: local optimizer x correction x server rule, with its published settings.

    Attributes:
        source: Paper, and whose settings the defaults are.
        settings: Dotted keys of the experiment that the preset sets; the experiment's own settings win over them.
    """

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def _recipe(
    lr: float,
    *,
    decay: float = 1.0,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    momentum: float = 0.0,
    weights: str = "examples",
    sampling: str = "fixed",
) -> dict[str, Any]:
    """Everything of a published recipe that is not the method itself."""
    schedule = (
        {"client.schedule.name": "constant"} if decay == 1 else {"client.schedule.name": "exponential", "client.schedule.decay": decay}
    )
    optimizer = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum} | ({"clip_norm": clip_norm} if clip_norm else {})
    return {
        **{f"client.optimizer.{key}": value for key, value in optimizer.items()},
        **schedule,
        "server.weights": weights,
        "server.sampling": sampling,
    }


def _parts(optimizer: str, correction: str, strategy: str, **settings: Any) -> dict[str, Any]:
    """Three names and hyperparameters: `optimizer_rho` is `client.optimizer.rho`, `strategy_inner_name` `server.strategy.inner.name`."""
    names = dict(zip(PARTS, (optimizer, correction, strategy), strict=True))
    short = {part.rpartition(".")[2]: part for part in PARTS}
    given: dict[str, Any] = {f"{part}.name": name for part, name in names.items()}
    for key, value in settings.items():
        part, _, rest = key.partition("_")
        given[f"{short[part]}.{rest.replace('inner_', 'inner.')}"] = value
    return given


# Recipes of the authors' code, by the number of the protocol's first user.
FL_SIMULATOR = _recipe(0.1, decay=0.998, weight_decay=1e-3, clip_norm=10.0, weights="uniform", sampling="independent")
ADMM = FL_SIMULATOR | {"client.schedule.decay": 0.9995}  # its authors' advice for methods with duals
FEDACG = _recipe(0.1, decay=0.998, weight_decay=1e-3, clip_norm=10.0, weights="uniform")
FEDEXP = _recipe(0.01, decay=0.998, weight_decay=1e-4, clip_norm=10.0)
CALDAROLA = _recipe(0.01, weight_decay=4e-4)
FEDSOL = _recipe(0.01, decay=0.99, weight_decay=1e-5, momentum=0.9)
FL_SAM = _recipe(0.01, decay=0.998, weight_decay=1e-5, momentum=0.9)
SAM_EPS = 1e-7  # FL-Simulator's

METHODS: dict[str, Method] = {
    "fedavg": Method("McMahan et al., 2017, arXiv:1602.05629", _parts("sgd", "none", "fedavg")),
    "fedprox": Method(
        "Li et al., 2020, arXiv:1812.06127; settings of FL-Simulator",
        FL_SIMULATOR | _parts("sgd", "proximal", "fedavg", correction_mu=0.1),
    ),
    "fedavgm": Method("Hsu et al., 2019, arXiv:1909.06335; momentum as in FedExP's comparison", _parts("sgd", "none", "fedavgm")),
    "fedadagrad": Method("Reddi et al., 2021, arXiv:2003.00295; settings of Flower", _parts("sgd", "none", "fedadagrad", strategy_lr=0.1)),
    "fedadam": Method(
        "Reddi et al., 2021, arXiv:2003.00295; settings of FL-Simulator",
        FL_SIMULATOR | _parts("sgd", "none", "fedadam", strategy_lr=0.1, strategy_tau=0.01),
    ),
    "fedyogi": Method("Reddi et al., 2021, arXiv:2003.00295; settings of Flower", _parts("sgd", "none", "fedyogi", strategy_lr=0.01)),
    "scaffold": Method(
        "Karimireddy et al., 2020, arXiv:1910.06378, option II; settings of FL-Simulator",
        FL_SIMULATOR | _parts("sgd", "control_variate", "scaffold", strategy_inner_name="fedavg"),
    ),
    "feddyn": Method(
        "Acar et al., 2021, arXiv:2111.04263; settings of FL-Simulator", ADMM | _parts("sgd", "dual", "feddyn", correction_lam=0.1)
    ),
    "fednova": Method(
        "Wang et al., 2020, arXiv:2007.07481; learning rate and momentum of the authors' launch script",
        _recipe(0.02, momentum=0.9) | _parts("sgd", "normalized", "fednova", strategy_inner_name="fedavg"),
    ),
    "fedcm": Method(
        "Xu et al., 2021, arXiv:2106.10874; settings of FL-Simulator",
        FL_SIMULATOR | _parts("sgd", "client_momentum", "fedcm", correction_alpha=0.1, strategy_inner_name="fedavg"),
    ),
    "fedacg": Method(
        "Kim et al., 2022, arXiv:2201.03172; settings of the authors' code (learning rate decay 0.995 on CIFAR-100)",
        FEDACG | {"client.clip": "everything"} | _parts("sgd", "proximal", "fedacg", correction_mu=0.002, strategy_momentum=0.85),
    ),
    "fedexp": Method(
        "Jhunjhunwala et al., 2023, arXiv:2301.09604; settings of the authors' code", FEDEXP | _parts("sgd", "none", "fedexp")
    ),
    "fedsam": Method(
        "Qu et al., 2022, arXiv:2206.02618 and Caldarola et al., 2022, arXiv:2203.11834; settings of FL-Simulator",
        FL_SIMULATOR | _parts("sam", "none", "fedavg", optimizer_rho=0.1, optimizer_norm_eps=SAM_EPS),
    ),
    "fedasam": Method(
        "Caldarola et al., 2022, arXiv:2203.11834; settings of the authors' code, CIFAR-10 with alpha 0 or 0.05",
        CALDAROLA | _parts("asam", "none", "fedavg", optimizer_variant="official", optimizer_rho=0.7, optimizer_eta=0.2),
    ),
    "fedasam_swa": Method(
        "Caldarola et al., 2022, arXiv:2203.11834, with server SWA; settings of the authors' code, CIFAR-10 with alpha 0 or 0.05",
        CALDAROLA
        | {"client.schedule.name": "cyclic", "client.schedule.start": 0.75, "client.schedule.cycle": 10, "client.schedule.floor": 0.01}
        | _parts("asam", "none", "swa", strategy_inner_name="fedavg", optimizer_variant="official", optimizer_rho=0.7, optimizer_eta=0.2)
        | {"server.strategy.start": 0.75, "server.strategy.cycle": 10},
    ),
    "mofedsam": Method(
        "Qu et al., 2022, arXiv:2206.02618; settings of FL-Simulator",
        FL_SIMULATOR
        | _parts(
            "sam",
            "client_momentum",
            "fedcm",
            strategy_inner_name="fedavg",
            optimizer_rho=0.1,
            optimizer_norm_eps=SAM_EPS,
            correction_alpha=0.1,
        ),
    ),
    "fedspeed": Method(
        "Sun et al., 2023, arXiv:2302.10429, in the released form, which is FedDyn with SAM; settings of FL-Simulator",
        ADMM | _parts("sam", "dual", "feddyn", optimizer_rho=0.1, optimizer_norm_eps=SAM_EPS, correction_lam=0.1),
    ),
    "fedspeed_prox": Method(
        "Sun et al., 2023, arXiv:2302.10429, with the prox-correction of the paper; settings as for fedspeed",
        ADMM | _parts("mixed", "prox_correction", "fedavg", optimizer_rho=0.1, optimizer_mix=1.0, correction_lam=0.1),
    ),
    "fedsmoo": Method(
        "Sun et al., 2023, arXiv:2305.11584; settings of FL-Simulator for CIFAR-10",
        ADMM | _parts("smoo", "smoo", "fedsmoo", optimizer_rho=0.1, correction_lam=0.1, strategy_rho=0.1),
    ),
    "fedgamma": Method(
        "Dai et al., 2023, doi 10.1109/TNNLS.2023.3304453; settings of FL-Simulator",
        FL_SIMULATOR
        | _parts("sam", "control_variate", "scaffold", strategy_inner_name="fedavg")
        | {"client.optimizer.rho": 0.01, "client.optimizer.norm_eps": SAM_EPS},
    ),
    "fedlesam": Method(
        "Qu et al., 2024, arXiv:2405.18890; settings of the authors' code",
        FL_SIMULATOR | _parts("lesam", "lookback", "fedavg", optimizer_rho=0.1, correction_inner_name="none"),
    ),
    "fedlesam_s": Method(
        "Qu et al., 2024, arXiv:2405.18890, on SCAFFOLD; settings of the authors' code, the scale of the correction as in SCAFFOLD",
        FL_SIMULATOR
        | _parts("lesam", "lookback", "scaffold", optimizer_rho=0.1)
        | {"client.correction.inner.name": "control_variate", "server.strategy.inner.name": "fedavg"},
    ),
    "fedlesam_d": Method(
        "Qu et al., 2024, arXiv:2405.18890, on FedDyn; settings of the authors' code",
        FL_SIMULATOR | _parts("lesam", "lookback", "feddyn", optimizer_rho=0.1, correction_inner_name="dual", correction_inner_lam=0.1),
    ),
    "fedgf": Method(
        "Lee and Yoon, 2024, ICML, openreview 6TM62kpI5c; settings of the authors' code",
        CALDAROLA
        | _parts("gf", "global_point", "fedgf", optimizer_rho=0.05, strategy_rho=0.05, strategy_threshold=0.2, strategy_window=30),
    ),
    "fedgloss": Method(
        "Caldarola et al., 2024, arXiv:2412.03752; settings of the authors' code for CIFAR-10, but no warm-up (2000 of 10000 rounds)",
        CALDAROLA
        | _parts("warm_sam", "dual", "fedgloss", optimizer_rho=0.15, optimizer_norm_eps=1e-16, correction_lam=0.1, strategy_rho=0.15),
    ),
    "fedgmt": Method(
        "Li et al., 2025, ICML, openreview 80mK2Mqaph; settings of the authors' code",
        FL_SAM
        | _parts("gmt", "ema_teacher", "ema", optimizer_tau=3.0, optimizer_gamma=1.0, strategy_decay=0.95, strategy_inner_name="feddyn")
        | {"client.correction.inner.name": "dual", "client.correction.inner.lam": 0.1, "client.correction.inner.anchored": False},
    ),
    "fedsol": Method(
        "Lee et al., 2023, arXiv:2308.12532; settings of the authors' code, adaptive form",
        FEDSOL | _parts("sol", "none", "fedavg", optimizer_rho=1.0, optimizer_adaptive=True),
    ),
}


def expand(settings: Mapping[str, Any]) -> Experiment:
    """The experiment of plain `settings`, with its preset's settings filled in where they leave them open.

    Where the settings name another part than the preset does, the preset's hyperparameters of that part go, but for those that every
    local optimizer has.

    Raises:
        ConfigError: As `fedsam.config.parse`, and for an unknown preset.
    """
    name = settings.get("method")
    if name is None:
        return parse(settings)
    if name not in METHODS:
        raise ConfigError(f"method: {name!r} is not known; allowed: {', '.join(sorted(METHODS))}")
    preset = dict(METHODS[name].settings)
    own = {f"{key}.name" if f"{key}.name" in preset else key: value for key, value in _leaves(settings)}
    for part in [key.removesuffix(".name") for key in preset if key.endswith(".name")]:
        if own.get(f"{part}.name", preset.get(f"{part}.name")) != preset.get(f"{part}.name"):
            preset = {key: value for key, value in preset.items() if not key.startswith(f"{part}.") or _shared(key)}
    return parse(override({}, {**preset, **own}))


def _shared(key: str) -> bool:
    return key.startswith("client.optimizer.") and key.rpartition(".")[2] in ("lr", "weight_decay", "momentum", "clip_norm")


def _leaves(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every value of nested tables under its dotted key."""
    leaves: list[tuple[str, Any]] = []
    for key, value in table.items():
        leaves += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return leaves
