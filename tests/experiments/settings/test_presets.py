"""Presets: what they expand to, what they cost, that their components fit together, and that every grid gives the same numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from clients import runtime
from clients.optimizers import OPTIMIZERS
from experiments.callbacks.callback import Callback
from experiments.running.grids import ActorGroup, grids
from experiments.running.server_app import serve
from experiments.settings.catalogue import check, resolved
from experiments.settings.method import Method
from experiments.settings.method_cost import MethodCost, cost
from experiments.settings.presets import PRESETS, expand
from fedsam.config import ConfigError, Experiment
from fedsam.messages import codec
from fedsam.overrides import override
from strategies import STRATEGIES
from strategies.robust import FlowerRule
from tests.support.shared_ray import SharedRay

GOLDEN = Path(__file__).parents[2] / "golden" / "strategies"

# The specification's section 2: down, up, client state, server state, gradients and extra forwards per step.
COSTS = {
    "fedavg": (1, 1, 0, 0, 1, 0),
    "fedprox": (1, 1, 0, 0, 1, 0),
    "fedavgm": (1, 1, 0, 1, 1, 0),
    "fedadagrad": (1, 1, 0, 2, 1, 0),  # one less if the first moment, which has no decay, were not kept
    "fedadam": (1, 1, 0, 2, 1, 0),
    "fedyogi": (1, 1, 0, 2, 1, 0),
    "scaffold": (2, 2, 1, 1, 1, 0),
    "feddyn": (1, 1, 1, 1, 1, 0),
    "fednova": (1, 1, 0, 0, 1, 0),
    "fedcm": (2, 1, 0, 1, 1, 0),
    "fedacg": (1, 1, 0, 1, 1, 0),
    "fedexp": (1, 1, 0, 1, 1, 0),
    "fedsam": (1, 1, 0, 0, 2, 0),
    "fedasam": (1, 1, 0, 0, 2, 0),
    "fedasam_swa": (1, 1, 0, 1, 2, 0),
    "mofedsam": (2, 1, 0, 1, 2, 0),
    "fedspeed": (1, 1, 1, 1, 2, 0),
    "fedspeed_prox": (1, 1, 1, 0, 2, 0),
    "fedsmoo": (2, 2, 2, 2, 2, 0),
    "fedgamma": (2, 2, 1, 1, 2, 0),
    "fedlesam": (1, 1, 1, 0, 1, 0),
    "fedlesam_s": (2, 2, 2, 1, 1, 0),
    "fedlesam_d": (1, 1, 2, 1, 1, 0),
    "fedgf": (2, 1, 0, 1, 2, 0),
    "fedgloss": (1, 1, 1, 2, 2, 0),
    "fedgmt": (2, 1, 1, 2, 1, 1),
    "fedsol": (1, 1, 0, 0, 2, 1),
    "fedswa": (1, 1, 0, 0, 1, 0),
    "fedmoswa": (2, 2, 1, 1, 1, 0),
    "fednsam": (1, 1, 0, 1, 2, 0),
    "fednsam_momentum": (2, 1, 0, 1, 1, 0),
    "dp_fedsam": (1, 1, 0, 0, 2, 0),
    "fedwmsam": (3, 2, 1, 2, 1, 0),  # the specification counts its change of c_i as derived from the delta, as SCAFFOLD's could be
}


@pytest.mark.parametrize("method", PRESETS)
def test_a_preset_is_complete_and_costs_what_the_specification_says(method: str) -> None:
    experiment = expand({"method": method})
    resolved(experiment)
    assert cost(Method.of(experiment), experiment.rounds) == MethodCost(*COSTS[method])
    assert PRESETS[method].source


@pytest.mark.parametrize("method", PRESETS)
def test_a_preset_says_what_backs_its_numbers(method: str) -> None:
    """By the recorded sources of its golden cases: equations, or somebody's code; whether the authors' own, only a person can tell."""
    found = [path for path in sorted(GOLDEN.glob("*.json"), key=lambda path: -len(path.stem)) if method.startswith(path.stem)]
    preset = PRESETS[method]
    assert str(preset.year) in preset.source or preset.golden == "none"
    if not found:
        assert preset.golden == "none"
        return
    cases = json.loads(found[0].read_text())["cases"]
    form = method.removeprefix(found[0].stem).lstrip("_")
    sources = [case["source"] for case in cases if form in case["name"]]
    assert sources
    assert (preset.golden == "equations") == sources[0].startswith("equations")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_a_setting(optimizer: str) -> None:
    needed = {
        "fedlesam": "lookback",
        "fednsam": "lookback",
        "fedgmt": "ema_teacher",
        "fedsmoo": "fedsmoo",
        "fedgf": "global_point",
        "fedwmsam": "fedwmsam",
    }
    preset = {"fednsam": "fednsam_momentum"}.get(optimizer, optimizer if optimizer in needed else None)
    experiment = expand({"method": preset} if preset else {"client": {"optimizer": optimizer}})
    assert experiment.client.optimizer.name == optimizer
    assert resolved(experiment)["client"]["correction"]["name"] == needed.get(optimizer, "none")


def test_the_settings_win_over_the_preset() -> None:
    experiment = expand({"method": "fedgamma", "client": {"optimizer": {"rho": 0.3}}, "server": {"strategy": {"inner": "fedadam"}}})
    assert experiment.client.optimizer.settings["rho"] == 0.3
    assert experiment.client.optimizer.name == "sam"
    assert resolved(experiment)["server"]["strategy"]["inner"]["beta2"] == 0.99
    other = expand(override({"method": "fedgamma"}, {"client.optimizer": "sgd", "client.schedule": "constant"}))
    assert other.client.optimizer.settings == {"lr": 0.1, "weight_decay": 1e-3, "momentum": 0.0, "clip_norm": 10.0}
    assert other.client.schedule.settings == {}
    resolved(other)
    inner = expand(override({"method": "scaffold"}, {"server.strategy.inner.lr": 0.5}))
    assert resolved(inner)["server"]["strategy"]["inner"] == {"name": "fedavg", "lr": 0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "fedavgg"}, "method: 'fedavgg' is not known"),
        ({"method": "fedavg", "client.correction": "control_variate"}, "does not send c; one of fedmoswa, fedwmsam, scaffold does"),
        ({"method": "fedavg", "client.correction": "client_momentum"}, "server.strategy 'fedavg' does not send m"),
        ({"method": "scaffold", "client.correction": "none"}, "server.strategy: 'scaffold' is not allowed here: client.correction 'none'"),
        ({"method": "feddyn", "client.correction": "none"}, "keeps no h; one of dual, fedsmoo does"),
        ({"method": "fednova", "client.correction": "none"}, "does not send metrics.tau; one of normalized does"),
        ({"method": "fedavg", "client.optimizer": "fedlesam"}, "gives no ascent; one of lookback does"),
        (
            {"method": "fedsmoo", "client.optimizer": "sam"},
            "client.correction: 'fedsmoo' is not allowed here: client.optimizer 'sam' has no mu",
        ),
        ({"method": "fedsmoo", "client.correction.upload": "mu_change"}, "does not send mean.mu"),
        ({"method": "scaffold", "server.strategy.inner": "feddyn"}, "keeps no h"),
        ({"method": "scaffold", "server.strategy.inner": "flower_median"}, "server.strategy.inner: 'flower_median' is not allowed"),
        ({"method": "scaffold", "server.strategy.inner.warp": 1}, "server.strategy.inner.warp: unknown key"),
        ({"method": "fedlesam_s", "client.correction.inner": "warp"}, "client.correction.inner: 'warp' is not known"),
        ({"method": "feddyn", "server.strategy": "flower_krum"}, "combine the clients' models and nothing else"),
        ({"method": "fedsam", "server.strategy": "flower_krum"}, "does not know server.weights = 'uniform'"),
        ({"server.sampling": [[0, 1]], "rounds": 2}, "server.sampling: 1 cohorts are not allowed: there are 2 rounds"),
        ({"server.sampling": [[0, 100]], "rounds": 1}, "cohort 1 is not allowed: must be different clients from 0 to 99"),
        ({"server.sampling": "warp"}, "server.sampling"),
        (
            {"client.rho_schedule": "cosine"},
            "client.rho_schedule: 'cosine' is not allowed here: client.optimizer 'sgd' has no perturbation",
        ),
        (
            {"client.optimizer": "sam", "client.rho_schedule": "linear", "budget": 9},
            "client.rho_schedule: 'linear' is not allowed with a budget",
        ),
        ({"client.rate_floor": 1.5}, "client.rate_floor: 1.5 is not allowed"),
        ({"method": "fedmoswa", "server.strategy": "scaffold"}, "client.correction 'fedmoswa' does not send population.c"),
        ({"method": "fedwmsam", "server.strategy.inner": "fedavg"}, "does not send c"),
        ({"method": "dp_fedsam", "client.correction.inner": "dual"}, "client.correction.inner: 'dual' is not allowed in 'private'"),
        ({"server.quorum": 11}, "server.quorum: 11 is not allowed: a cohort has 10 clients"),
        ({"server.quorum": 0}, "server.quorum"),
        ({"server.on_client_error": "ignore"}, "server.on_client_error: 'ignore' is not allowed"),
        ({"server.deadline": 0}, "server.deadline: 0 is not allowed"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_the_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolved(expand(override({}, settings)))
    assert message in str(error.value)


def small(folder: Path, grid: str, changes: dict[str, Any]) -> Experiment:
    """Five rounds of three digits clients out of six."""
    settings = {
        "method": "fedavg",
        "rounds": 5,
        "runs_dir": str(folder),
        "data.dataset": "digits",
        "data.clients": 6,
        "data.examples": 240,
        "model": "lenet5",
        "client.steps": 2,
        "client.batch_size": 10,
        "client.optimizer.lr": 0.02,
        "server.participation": 3,
        "measure.every": 5,
        "measure.union": False,
        "compute": {"grid": grid} | ({"actors": 2} if grid == "ray" else {}),
    }
    return expand(override({}, settings | changes))


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory, shared_ray: SharedRay) -> Iterator[ActorGroup]:
    """Two actors for all tests of this file."""
    with shared_ray.as_grids(), grids([small(tmp_path_factory.mktemp("ray"), "ray", {})]) as grid_of:
        yield grid_of


def both(folder: Path, on_ray: ActorGroup, changes: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The final vectors in this process and on actors."""
    inline, ray = small(folder, "inline", changes), small(folder, "ray", changes)
    with grids([inline]) as here:
        return serve(check(inline), *here(inline), Callback()).w, serve(check(ray), *on_ray(ray), Callback()).w


# Every correction, every optimizer and rule that only one has, once; the others combine these, or differ on the server alone.
DIFFERENT = (
    *("fedavg", "scaffold", "fednova", "fedcm", "fedacg", "fedexp", "fedspeed_prox", "fedsmoo", "fedlesam_d", "fedgf", "fedgloss"),
    *("fedgmt", "fedsol", "fedmoswa", "fednsam_momentum", "dp_fedsam", "fedwmsam"),
)


@pytest.mark.parametrize("method", [*DIFFERENT, *(pytest.param(name, marks=pytest.mark.slow) for name in PRESETS if name not in DIFFERENT)])
def test_every_preset_gives_the_same_bits_on_every_grid(tmp_path: Path, on_ray: ActorGroup, method: str) -> None:
    here, there = both(tmp_path, on_ray, {"method": method})
    assert torch.equal(here, there)
    assert bool(torch.isfinite(here).all())


@pytest.mark.parametrize("strategy", [name for name, entry in STRATEGIES.items() if issubclass(entry, FlowerRule)])
def test_flowers_robust_strategies_give_the_same_bits_on_every_grid(tmp_path: Path, on_ray: ActorGroup, strategy: str) -> None:
    malicious = {} if strategy in ("flower_median", "flower_trimmed_mean") else {"server.strategy.malicious": 0}
    here, there = both(tmp_path, on_ray, {"server.strategy.name": strategy, "rounds": 2, "measure.every": 2, **malicious})
    assert torch.equal(here, there)
    assert bool(torch.isfinite(here).all())


def test_too_few_updates_for_a_robust_strategy_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server.participation: 3 is not allowed: flower_bulyan needs 7 clients"):
        resolved(small(tmp_path, "inline", {"server.strategy.name": "flower_bulyan"}))


FLOWERS: dict[str, tuple[Strategy, dict[str, Any], float]] = {
    "fedavg": (flower.FedAvg(), {"server.strategy": "fedavg"}, 1e-6),
    "fedadam": (
        flower.FedAdam(eta=0.01, beta_2=0.99, tau=1e-3),
        {"server.strategy": {"name": "fedadam", "lr": 0.01, "bias_correction": "flower"}},
        1e-4,
    ),
    "median": (flower.FedMedian(), {"server.strategy": "flower_median"}, 0.0),
    "krum": (flower.Krum(num_malicious_nodes=1), {"server.strategy": "flower_krum"}, 0.0),
}


@pytest.mark.parametrize("name", FLOWERS)
def test_flowers_own_strategies_run_on_actors_and_ours_give_their_numbers(tmp_path: Path, on_ray: ActorGroup, name: str) -> None:
    theirs, changes, tolerance = FLOWERS[name]
    everyone = {"server.participation": 6, "rounds": 3, **changes}
    ours = small(tmp_path, "inline", everyone)
    with grids([ours]) as here:
        expected = serve(check(ours), *here(ours), Callback()).w
    ray = small(tmp_path, "ray", everyone)
    grid, dataset = on_ray(ray)
    start = runtime.network(ray, dataset, torch.device("cpu"), torch.float32).initial
    result = theirs.start(grid, codec.arrays({"w": start}), num_rounds=3, timeout=math.inf)
    got = codec.tensors(result.arrays)["w"]
    assert not torch.equal(got, start)
    assert torch.allclose(got.to(expected), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_radius_follows_its_schedule(tmp_path: Path, name: str) -> None:
    """Half the radius all along is another run than a radius that falls; a schedule that stays at 1 is none."""
    sam = {"client.optimizer": {"name": "sam", "rho": 1.0, "lr": 0.02}, "rounds": 3, "measure.every": 3}

    def final(changes: dict[str, Any]) -> Tensor:
        experiment = small(tmp_path, "inline", sam | changes)
        with grids([experiment]) as here:
            return serve(check(experiment), *here(experiment), Callback()).w

    ends = [
        final(changes)
        for changes in (
            {},
            {"client.rho_schedule": {"name": name, {"linear": "end", "cosine": "floor"}[name]: 1.0}},
            {"client.rho_schedule": name},
        )
    ]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_failures_are_counted_in_the_rows(tmp_path: Path) -> None:
    experiment = small(tmp_path, "inline", {"server.on_client_error": "drop", "method": "feddyn"})
    with grids([experiment]) as here:
        grid, dataset = here(experiment)
        send = grid.send_and_receive

        def lossy(messages: Any, *, timeout: float | None = None) -> Any:
            replies = send(messages, timeout=timeout)
            return [reply for number, reply in enumerate(replies) if number or reply.metadata.message_type != "train"]

        grid.send_and_receive = lossy  # type: ignore[method-assign]
        result = serve(check(experiment), grid, dataset, Callback())
    sampled = [len(row.clients) for row in result.rows]
    assert [row.failures for row in result.rows] == [1] * 5
    assert [row.cohort + 1 for row in result.rows] == sampled
    assert {row.clients[0].status for row in result.rows} == {"did not reply in time"}
    assert all(math.isnan(row.clients[0].train_loss) for row in result.rows)


def test_evaluations_that_are_late_are_counted_in_the_rows(tmp_path: Path) -> None:
    experiment = small(tmp_path, "inline", {"server.on_client_error": "drop", "measure.clients": True})
    with grids([experiment]) as here:
        grid, dataset = here(experiment)
        send = grid.send_and_receive

        def lossy(messages: Any, *, timeout: float | None = None) -> Any:
            replies = list(send(messages, timeout=timeout))
            return replies[1:] if replies and replies[0].metadata.message_type == "evaluate" else replies

        grid.send_and_receive = lossy  # type: ignore[method-assign]
        result = serve(check(experiment), grid, dataset, Callback())
    assert [(row.failures, row.cohort) for row in result.rows] == [(1, len(row.clients)) for row in result.rows]
    assert {row.clients[0].status for row in result.rows} == {"evaluation: did not reply in time"}
    assert all(row.clients[0].steps > 0 and math.isfinite(row.clients[0].train_loss) for row in result.rows)
