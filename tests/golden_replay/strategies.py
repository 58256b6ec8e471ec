"""Replays `fl-golden/1`: a federated method on a few clients with listed batches, through the real apps, strategy and grid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from clients import client_app as client_app
from clients.local import LocalResult
from clients.optimizers.base import State
from clients.optimizers.warm_sam import WarmSAM
from clients.runtime import ClientRuntime
from experiments.running.run import cohort_strategy
from experiments.settings import compatibility
from experiments.settings.method import Method
from experiments.settings.presets import PRESETS, expand
from fedsam.config import Experiment
from fedsam.data.federated import FederatedDataset
from fedsam.grid.inline import InlineGrid
from fedsam.messages import codec
from fedsam.models.network import Network
from fedsam.overrides import override
from strategies.cohort import CohortStrategy
from strategies.fedgloss import FedGloSS
from tests.golden_replay.replay import Case, Deviations, Unknown, deviation

Settings = dict[str, Any]
CPU = torch.device("cpu")
OPTIMIZER, CORRECTION, STRATEGY = "client.optimizer", "client.correction", "server.strategy"


def _server_lr(value: float, preset: Mapping[str, Any]) -> Settings:
    """To the rule itself, or to the one that it wraps."""
    key = STRATEGY
    while f"{key}.inner.name" in preset:
        key += ".inner"
    return {f"{key}.lr": value}


def _at(*keys: str, change: Callable[[Any], Any] = lambda value: value) -> Callable[[Any, Mapping[str, Any]], Settings]:
    """The value, changed, under each of these keys of the experiment."""
    return lambda value, preset: {key: change(value) for key in keys}


def _only(*allowed: Any) -> Callable[[Any, Mapping[str, Any]], Settings]:
    """Nothing to set: the method has no such setting, and the case may only repeat what the method prescribes."""

    def check(value: Any, preset: Mapping[str, Any]) -> Settings:
        if value not in allowed:
            raise ValueError(f"{value!r} is not known here; known: {allowed}")
        return {}

    return check


def _direction(value: str, preset: Mapping[str, Any]) -> Settings:
    strategy = {f"{STRATEGY}.name": "previous", f"{STRATEGY}.inner.name": "fedavg"} if value == "previous_round" else {}
    return {f"{CORRECTION}.direction": value, **strategy}


def _adaptive(value: bool, preset: Mapping[str, Any]) -> Settings:
    return {f"{OPTIMIZER}.name": "asam", f"{OPTIMIZER}.variant": "elementwise"} if value else {f"{OPTIMIZER}.name": "sam"}


def _s_variant(value: str, preset: Mapping[str, Any]) -> Settings:
    uploads = {"mu_active": "mu", "mu_minus_last_active": "mu_minus_last", "minus_mu_all": "mu_change"}
    return {f"{STRATEGY}.variant": value, f"{CORRECTION}.upload": uploads[value]}


DIVISORS = {"N_times_active": "population_times_cohort", "N": "population"}

# Golden hyperparameters -> settings of the experiment; those of one method win over the common ones.
COMMON: Mapping[str, Callable[[Any, Mapping[str, Any]], Settings]] = {
    "aggregation_weights": _at("server.weights"),
    "clip_norm": _at(f"{OPTIMIZER}.clip_norm"),
    "server_lr": _server_lr,
    "rho": _at(f"{OPTIMIZER}.rho"),
    "norm_eps": _at(f"{OPTIMIZER}.norm_eps"),
    "lambda": _at(f"{CORRECTION}.lam"),
    "mu": _at(f"{CORRECTION}.mu"),
    "alpha": _at(f"{CORRECTION}.alpha"),
    "direction": _direction,
    "beta1": _at(f"{STRATEGY}.beta1"),
    "beta2": _at(f"{STRATEGY}.beta2"),
    "tau": _at(f"{STRATEGY}.tau"),
    "v0": _at(f"{STRATEGY}.v0"),
    "bias_correction": _only("none"),
    "server_momentum": _at(f"{STRATEGY}.momentum"),
    "local_momentum": _at(f"{OPTIMIZER}.momentum"),
    "rate_floor": _at("client.rate_floor"),
    "clip_placement": _at("client.clip"),
}
OWN: Mapping[str, Mapping[str, Callable[[Any, Mapping[str, Any]], Settings]]] = {
    "fedacg": {"beta": _at(f"{CORRECTION}.mu", change=lambda beta: 2 * beta)},
    "fedadagrad": {"beta2": _only(0.0)},
    "fedadam": {"bias_correction": _at(f"{STRATEGY}.bias_correction")},
    "fedasam_swa": {
        "eta": _at(f"{OPTIMIZER}.eta"),
        "swa": _only(True),
        "swa_start": _at(f"{STRATEGY}.start"),
        "swa_cycle": _at(f"{STRATEGY}.cycle"),
    },
    "fedasam": {"eta": _at(f"{OPTIMIZER}.eta"), "swa": _only(False)},
    "fedexp": {"epsilon": _at(f"{STRATEGY}.epsilon"), "lr_decay_for_epsilon": _at(f"{STRATEGY}.epsilon_decay"), "server_lr": _only(1.0)},
    "dp_fedsam": {
        "adaptive": _adaptive,
        "update_clip": _at(f"{CORRECTION}.clip"),
        "clip_scope": _at(f"{CORRECTION}.scope"),
        "noise_multiplier": _at(f"{CORRECTION}.sigma"),
    },
    "fedgf": {
        "rho_global": _at(f"{STRATEGY}.rho"),
        "T_D": _at(f"{STRATEGY}.threshold"),
        "window": _at(f"{STRATEGY}.window"),
        "server_lr": _only(1.0),
    },
    "fedgloss": {
        "beta": _at(f"{CORRECTION}.lam", change=lambda beta: 1 / beta),
        "rho_local": lambda value, preset: {},  # scripted, as is the next
        "rho_server": lambda value, preset: {},
        "sigma_divisor": _at(
            f"{STRATEGY}.dual_divisor", change={"N_times_active": "population_times_cohort", "N": "population"}.__getitem__
        ),
    },
    "fedgmt": {
        "tau": _at(f"{OPTIMIZER}.tau"),
        "gamma": _at(f"{OPTIMIZER}.gamma"),
        "beta": _at(f"{CORRECTION}.inner.lam", change=lambda beta: 1 / beta),
        "ema": _at(f"{STRATEGY}.decay"),
    },
    "fedlesam_d": {"lambda": _at(f"{CORRECTION}.inner.lam")},
    "fedlesam_s": {"correction_scale": _at(f"{CORRECTION}.inner.scale")},
    "fedmoswa": {
        "variate_momentum": _at(f"{STRATEGY}.gamma"),
        "variate_rate": _at(f"{CORRECTION}.variate_rate"),
        "first_round": _at(f"{STRATEGY}.first_round"),
    },
    "fednsam": {"perturbation": _only("gradient")},
    "fednsam_momentum": {
        "perturbation": _only("momentum"),
        "server_momentum": _at(f"{STRATEGY}.momentum", f"{OPTIMIZER}.lookahead"),
    },
    "fedwmsam": {name: _at(f"{STRATEGY}.{name}") for name in ("alpha", "alpha_rate", "alpha_min", "alpha_max")},
    "fedsmoo": {
        "rho": _at(f"{OPTIMIZER}.rho", f"{STRATEGY}.rho"),
        "norm_eps": _at(f"{OPTIMIZER}.norm_eps", f"{STRATEGY}.norm_eps"),
        "s_variant": _s_variant,
    },
    "fedspeed_prox": {
        "prox_lambda": _at(f"{CORRECTION}.lam", change=lambda lam: 1 / lam),
        "mix_alpha": _at(f"{OPTIMIZER}.mix"),
    },
}

# Golden client and server states -> our names for them.
KEPT = {"c_i": "c", "h_i": "h", "mu_i": "mu", "w_old": "w_old", "g_i": "ghat", "sigma_i": "h"}
HELD = {
    "momentum": "v",
    "momentum_gradient_units": "m",
    "mean_h": "h",
    "sigma": "h",
    "pseudo_gradient": "g",
    "perturbed_model": "wp",
    "swa_model": "swa",
    "swa_n": "k",
    "w_prev": "w_old",
    "c_per_round": "share",
    "alpha_per_round": "alpha",
    "eta_g_per_round": "lr",
}


def preset_of(algorithm: str, hyper: Case) -> str:
    """Our name for the algorithm in the form that the hyperparameters speak of.

    Raises:
        Unknown: There is no such method.
    """
    forms = {"_prox": "prox_lambda" in hyper, "_swa": hyper.get("swa"), "_momentum": hyper.get("perturbation") == "momentum"}
    name = algorithm + next((form for form, is_meant in forms.items() if is_meant), "")
    if name not in PRESETS:
        raise Unknown(f"algorithm {algorithm!r} is not known")
    return name


def experiment_of(name: str, case: Case) -> Experiment:
    """The experiment that a case describes: our preset without its recipe, with the case's settings.

    Raises:
        ValueError: A hyperparameter is not known.
    """
    preset, federation = PRESETS[name].settings, case["federation"]
    plain: Settings = {
        "lr": federation["schedule"][0]["lr"],
        "weight_decay": federation["weight_decay"],
        "momentum": 0.0,
        "clip_norm": None,
    }
    given: Settings = {f"{OPTIMIZER}.{key}": value for key, value in plain.items()} | {"client.schedule": "constant"}
    for key, value in sorted(case["hyperparameters"].items()):  # `direction` may change the rule that `server_lr` belongs to
        found = OWN.get(name, {}).get(key, COMMON.get(key))
        if found is None:
            raise ValueError(f"hyperparameter {key!r} is not known to {name}")
        given |= found(value, {**preset, **given})
    settings = {
        "method": name,
        "rounds": len(federation["schedule"]),
        "data.clients": federation["data"]["num_clients"],
        "server.sampling": [entry["clients"] for entry in federation["schedule"]],
        "compute.precision": "float64",
    }
    return expand(override({}, settings | given))


@dataclass(frozen=True)
class ScriptedData:
    """Stands in for `FederatedDataset`: the case's clients and its listed batches."""

    federation: Case
    device: torch.device = CPU

    def num_examples(self, client: int) -> int:
        """Number of examples that the client holds."""
        return len(self.federation["data"]["clients"][client]["y"])

    round: list[int] = field(default_factory=lambda: [0])  # the one that is played, which `steps` is not told

    def steps(self, client: int, **_: Any) -> int:
        """Number of batches listed for the round that is played."""
        return len(self.federation["schedule"][self.round[0] - 1]["batches"][str(client)])

    def class_counts(self, client: int) -> tuple[int, ...]:
        """Not asked for by any method with golden cases."""
        return ()

    def batches(self, client: int, round: int, **_: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches listed for a round."""
        held = self.federation["data"]["clients"][client]
        x, y = torch.tensor(held["x"], dtype=torch.float64), torch.tensor(held["y"])
        for indices in self.federation["schedule"][round - 1]["batches"][str(client)]:
            yield x[indices], y[indices]


@dataclass(frozen=True)
class Listed:
    """Stands in for a numpy generator: gives the recorded normal numbers."""

    numbers: np.ndarray

    def standard_normal(self, size: int) -> np.ndarray:
        """All of them. Raises `ValueError` where another number of them is wanted."""
        return self.numbers.reshape(size)


@dataclass(frozen=True)
class ScriptedRuntime(ClientRuntime):
    """A runtime whose learning rates are listed and which remembers what came of each local training."""

    rates: tuple[float, ...] = ()
    noise: tuple[Mapping[str, list[float]], ...] = ()
    seen: dict[int, LocalResult] = field(default_factory=dict)

    def correction_rng(self, round: int, client: int) -> np.random.Generator:
        """Gives the numbers listed for the client, where there are any."""
        listed = self.noise[round - 1].get(str(client))
        return super().correction_rng(round, client) if listed is None else cast(np.random.Generator, Listed(np.array(listed)))

    def lr_factor(self, round: int) -> float:
        """The listed rate, as a multiple of the first."""
        return self.rates[round - 1] / self.rates[0]

    def train(self, broadcast: codec.Broadcast, client: int, client_state: Mapping[str, Tensor], state: State | None) -> LocalResult:
        """As `ClientRuntime.train`, remembered."""
        self.seen[client] = super().train(broadcast, client, client_state, state)
        return self.seen[client]


@dataclass(frozen=True, kw_only=True)
class ListedWarmSAM(WarmSAM):
    """WarmSAM whose radii are listed."""

    radii: tuple[float, ...]

    def radius(self, round: int) -> float:
        """As listed."""
        return self.radii[round - 1]


@dataclass(frozen=True, kw_only=True)
class ListedGloSS(FedGloSS):
    """FedGloSS whose radii are listed."""

    radii: tuple[float, ...]

    def radius(self, round: int) -> float:
        """As listed."""
        return self.radii[min(round, len(self.radii)) - 1]


def _network(federation: Case) -> Network:
    model = federation["model"]
    sizes = (model["d_in"], model["d_hidden"], model["d_out"])
    layers = OrderedDict(fc1=nn.Linear(*sizes[:2]), tanh=nn.Tanh(), fc2=nn.Linear(*sizes[1:]))
    network = Network(nn.Sequential(layers), dtype=torch.float64)
    shapes = [(segment.name, list(segment.shape)) for segment in network.layout.segments]
    if model["type"] != "mlp-tanh" or shapes != list(zip(model["param_names"], model["param_shapes"], strict=True)):
        raise ValueError(f"model {model['type']!r} with {model['param_names']} is not known")
    if not federation["loss"].startswith("mean softmax cross-entropy"):
        raise ValueError(f"loss {federation['loss']!r} is not known")
    return network


def replay(document: Case, case: Case) -> Deviations:
    """The deviations of one case.

    Raises:
        Unknown: The method has no preset.
    """
    return _rounds(preset_of(document["algorithm"], case["hyperparameters"]), case)


@dataclass(frozen=True)
class Stage:
    """A federation of a golden file with a method of our own choice: everything is real but the data, the batches and the rates."""

    strategy: CohortStrategy
    grid: InlineGrid
    place: ScriptedRuntime

    @classmethod
    def of(cls, experiment: Experiment, federation: Case, hyper: Case) -> Stage:
        """Ready for the first round; `hyper` may list radii."""
        method = Method.of(experiment)
        compatibility.check(experiment, method)
        optimizer, strategy = method.optimizer, cohort_strategy(experiment, method)
        if "rho_local" in hyper:
            optimizer = ListedWarmSAM(radii=tuple(hyper["rho_local"]), **asdict(optimizer))
            strategy.rule = ListedGloSS(radii=tuple(hyper["rho_server"]), **asdict(strategy.rule))
        rates = tuple(entry["lr"] for entry in federation["schedule"])
        strategy.round_config = replace(strategy.round_config, lr=lambda round: rates[round - 1])
        strategy.begin(torch.tensor(federation["init"], dtype=torch.float64), torch.empty(0))
        data = cast(FederatedDataset, ScriptedData(federation))
        noise = tuple(entry.get("noise", {}) for entry in federation["schedule"])
        components = (optimizer, method.correction, method.schedule, method.rho_schedule)
        place = ScriptedRuntime(experiment, data, _network(federation), *components, rates, noise)
        return cls(strategy, InlineGrid(lambda: app_of(place), experiment.data.clients, {}), place)

    def play(self, round: int) -> Tensor:
        """One round; the global vector after it."""
        self.place.seen.clear()
        cast(ScriptedData, self.place.federation).round[0] = round
        replies = self.grid.send_and_receive(self.strategy.configure_train(round, codec.arrays({}), ConfigRecord(), self.grid))
        self.strategy.aggregate_train(round, replies)
        return cast(Tensor, self.strategy.w)

    def client_state(self, client: int) -> dict[str, Tensor]:
        """The correction's vectors on the client; empty before it has taken part."""
        state = self.grid.states.get(client + 1)
        return codec.tensors(state.array_records["correction"]) if state and "correction" in state else {}


def _rounds(name: str, case: Case) -> Iterator[tuple[str, float]]:
    federation, expected = case["federation"], case["expected"]
    experiment, schedule = experiment_of(name, case), federation["schedule"]
    stage = Stage.of(experiment, federation, case["hyperparameters"])
    place, strategy = stage.place, stage.strategy
    compare, history = partial(deviation, rtol=0.0, atol=case["tolerance"]["float64_abs"]), []
    for round, (entry, want) in enumerate(zip(schedule, expected["rounds"], strict=True), start=1):
        stage.play(round)
        for client in entry["clients"]:
            yield f"local model of client {client} in round {round}", compare(place.seen[client].x, want["local_models"][str(client)])
        yield f"global model after round {round}", compare(cast(Tensor, strategy.w), want["global_model"])
        if want.get("eval_model") is not None:
            yield f"evaluated model after round {round}", compare(strategy.evaluated, want["eval_model"])
        history.append(flat(strategy.state))
    yield from _clients(stage, experiment, case, compare)
    yield from _server(strategy, history, experiment, case, compare)


def app_of(place: ClientRuntime) -> ClientApp:
    """A ClientApp whose clients train at `place`."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return client_app.answer(place, message, context)

    return app


def flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """A rule's state with those of its inner rules."""
    return {**(flat(state["inner"]) if "inner" in state else {}), **{name: value for name, value in state.items() if name != "inner"}}


def _clients(stage: Stage, experiment: Experiment, case: Case, compare: Callable[[Any, Any], float]) -> Iterator[tuple[str, float]]:
    for golden, wanted in case["expected"]["final_client_state"].items():
        if golden not in KEPT:
            raise ValueError(f"client state {golden!r} is not known")
        for client, want in enumerate(wanted):
            state = stage.client_state(client)
            if want is None and state:
                raise AssertionError(f"client {client} keeps {golden} although it never took part")
            got = state.get(KEPT[golden], torch.zeros(len(case["federation"]["init"]), dtype=torch.float64))
            if want is not None:
                yield f"final {golden} of client {client}", compare(_scale(golden, experiment) * got, want)


def _server(
    strategy: CohortStrategy, history: list[dict[str, Any]], experiment: Experiment, case: Case, compare: Callable[[Any, Any], float]
) -> Iterator[tuple[str, float]]:
    for golden, want in (case["expected"]["final_server_state"] or {}).items():
        # FedGF's c is a number, SCAFFOLD's a vector.
        name = "share" if golden == "c" and not isinstance(want, list) else HELD.get(golden, golden)
        name, sign = ("v", -1.0) if golden == "m" and name not in history[-1] else (name, 1.0)  # FedAvgM's momentum points uphill
        got = [state[name] for state in history] if golden.endswith("_per_round") else history[-1][name]
        yield f"final {golden}", compare(sign * _scale(golden, experiment) * got if isinstance(got, Tensor) else got, want)


def _scale(golden: str, experiment: Experiment) -> float:
    """FedGloSS's sigma is our dual h times -1 / beta."""
    return -float(experiment.client.correction.settings["lam"]) if golden.startswith("sigma") else 1.0
