"""What must hold between methods, on the real client and server code in float64: section by section of the specification's list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.settings.presets import expand
from fedsam.config import Experiment
from fedsam.overrides import override
from fedsam.schedules import LocalRate
from tests.golden_replay.strategies import Stage, flat

GOLDEN = Path(__file__).parents[1] / "golden" / "strategies"
RHO = "client.optimizer.rho"
NO_VARIATE = "client.correction.scale"
# DP-FedSAM without clip, noise and adaptive perturbation.
PUBLIC = {
    "client.optimizer.name": "sam",
    "client.optimizer.norm_eps": 1e-7,
    RHO: 0.1,
    "client.correction.clip": 1e9,
    "client.correction.sigma": 0.0,
}
# Simpler methods that are no preset of their own.
SIMPLER: dict[str, tuple[str, dict[str, Any]]] = {
    "fedacg_plain": ("fedacg", {"client.correction.mu": 0.0}),
    "fedcm_0.3": ("fedcm", {"client.correction.alpha": 0.3}),
}


def federation(name: str = "partial", file: str = "feddyn") -> dict[str, Any]:
    """Four clients of unequal sizes, five rounds; `partial`: two or three of them take part."""
    cases = json.loads((GOLDEN / f"{file}.json").read_text())["cases"]
    found: dict[str, Any] = next(case["federation"] for case in cases if case["name"] == name)
    return found


def experiment(method: str, scene: dict[str, Any], /, **changes: Any) -> Experiment:
    """A preset in one common recipe, so that methods differ by nothing else."""
    recipe = {
        "client.optimizer.lr": scene["schedule"][0]["lr"],
        "client.optimizer.weight_decay": 0.01,
        "client.optimizer.momentum": 0.0,
        "client.optimizer.clip_norm": None,
        "client.clip": "fl-simulator",
        "client.schedule": "constant",
        "server.weights": "uniform",
        "server.sampling": [entry["clients"] for entry in scene["schedule"]],
        "rounds": len(scene["schedule"]),
        "data.clients": scene["data"]["num_clients"],
        "compute.precision": "float64",
    }
    return expand(override({}, {"method": method, **recipe, **{key.replace("__", "."): value for key, value in changes.items()}}))


def stage(method: str, scene: dict[str, Any] | None = None, /, **changes: Any) -> Stage:
    scene = federation() if scene is None else scene
    return Stage.of(experiment(method, scene, **changes), scene, {})


def path(method: str, scene: dict[str, Any] | None = None, /, **changes: Any) -> Tensor:
    """The global vectors after each round (T, P)."""
    played = stage(method, scene, **changes)
    return torch.stack([played.play(round) for round in range(1, played.strategy.round_config.rounds + 1)])


@pytest.mark.parametrize(
    ("method", "changes", "simpler"),
    [
        ("fedsam", {RHO: 0.0}, "fedavg"),
        ("fedasam", {RHO: 0.0}, "fedavg"),
        ("mofedsam", {RHO: 0.0}, "fedcm"),
        ("fedgamma", {RHO: 0.0}, "scaffold"),
        ("fedspeed", {RHO: 0.0}, "feddyn"),
        ("fedlesam", {RHO: 0.0}, "fedavg"),
        ("fedlesam_s", {RHO: 0.0}, "scaffold"),
        ("fedlesam_d", {RHO: 0.0}, "feddyn"),
        ("fedsmoo", {RHO: 0.0, "server.strategy.rho": 0.0}, "feddyn"),
        ("fedsol", {RHO: 0.0}, "fedavg"),
        ("fedgmt", {"client.optimizer.gamma": 0.0, "client.correction.inner.anchored": True}, "feddyn"),
        ("fedcm", {"client.correction.alpha": 1.0}, "fedavg"),
        ("fedacg", {"server.strategy.momentum": 0.0, "client.correction.mu": 0.0}, "fedavg"),
        ("fedavgm", {"server.strategy.momentum": 0.0}, "fedavg"),
        ("fedprox", {"client.correction.mu": 0.0}, "fedavg"),
        ("fednova", {}, "fedavg"),
        ("fedasam_swa", {RHO: 0.0}, "fedavg"),
        ("fedswa", {"client.rate_floor": 1.0, "server.strategy.lr": 1.0}, "fedavg"),
        ("fednsam", {"server.strategy.momentum": 0.0, "client.optimizer.norm_eps": 1e-7, RHO: 0.1}, "fedsam"),
        ("fednsam", {RHO: 0.0}, "fedacg_plain"),
        ("fednsam_momentum", {"server.strategy.momentum": 0.0, "client.optimizer.lookahead": 0.0, RHO: 0.0}, "fedavg"),
        ("dp_fedsam", PUBLIC, "fedsam"),
        ("fedwmsam", {RHO: 0.0, "server.strategy.alpha": 0.3, "server.strategy.alpha_rate": 0.0, NO_VARIATE: 0.0}, "fedcm_0.3"),
    ],
)
@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_a_method_without_its_point_is_the_simpler_one(method: str, changes: dict[str, Any], simpler: str, weights: str) -> None:
    reduced = path(method, server__weights=weights, **changes)
    name, settings = SIMPLER.get(simpler, (simpler, {}))
    assert torch.allclose(reduced, path(name, server__weights=weights, **settings), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        *("fedsam", "mofedsam", "fedgamma", "fedspeed", "fedsmoo", "fedlesam", "fedlesam_s", "fedlesam_d", "fedcm", "scaffold", "feddyn"),
        *("fedswa", "fedmoswa", "fednsam", "fednsam_momentum", "dp_fedsam", "fedwmsam"),
    ],
)
def test_a_method_with_its_point_is_not_the_simpler_one(method: str) -> None:
    assert not torch.allclose(path(method), path("fedavg"), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "simpler"), [("scaffold", "fedavg"), ("fedlesam", "fedavg"), ("fedlesam_s", "scaffold")])
def test_the_first_round_is_that_of_the_simpler_one(method: str, simpler: str) -> None:
    assert torch.equal(path(method)[0], path(simpler)[0])


def test_unequal_steps_are_what_fednova_corrects() -> None:
    scene = federation("unequal_steps", "fednova")
    assert not torch.allclose(path("fednova", scene), path("fedavg", scene), rtol=0, atol=1e-6)
    assert torch.allclose(path("fednova", scene)[0], torch.tensor(by_hand(scene), dtype=torch.float64), rtol=0, atol=1e-12)


def by_hand(scene: dict[str, Any]) -> list[float]:
    """The first round of FedNova with equal weights, from the local models of FedAvg's first round."""
    played = stage("fedavg", scene)
    played.play(1)
    seen = played.place.seen
    start = torch.tensor(scene["init"], dtype=torch.float64)
    normalized = torch.stack([(seen[c].x - start) / seen[c].steps for c in seen]).mean(dim=0)
    steps = sum(seen[c].steps for c in seen) / len(seen)
    return list((start + steps * normalized).tolist())


def test_both_forms_of_fedspeed_are_feddyn_when_all_take_part_without_perturbation() -> None:
    scene = federation("full")
    dyn = path("feddyn", scene)
    assert torch.allclose(path("fedspeed_prox", scene, **{RHO: 0.0}), dyn, rtol=0, atol=1e-12)
    assert torch.allclose(path("fedspeed", scene, **{RHO: 0.0}), dyn, rtol=0, atol=1e-12)
    assert not torch.allclose(path("fedspeed_prox", **{RHO: 0.0}), path("feddyn"), rtol=0, atol=1e-6)


def test_fedgloss_without_server_radius_over_the_population_is_fedspeed() -> None:
    same = {RHO: 0.1, "client.optimizer.norm_eps": 1e-16}
    gloss = path("fedgloss", **same, **{"server.strategy.rho": 0.0, "server.strategy.dual_divisor": "population"})
    assert torch.allclose(gloss, path("fedspeed", **same), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "name"), [("scaffold", "c"), ("fedgamma", "c"), ("fedlesam_s", "c"), ("feddyn", "h"), ("fedspeed", "h")]
)
@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_the_server_holds_the_mean_of_the_clients_states(method: str, name: str, weights: str) -> None:
    played = stage(method, server__weights=weights)
    for round in range(1, 6):
        played.play(round)
        mean = torch.stack([played.client_state(client).get(name, torch.zeros(43, dtype=torch.float64)) for client in range(4)]).mean(dim=0)
        assert torch.allclose(flat(played.strategy.state)[name], mean, rtol=0, atol=1e-12)
        assert float(mean.norm()) > 1e-3


def test_fedmoswa_over_everybody_with_full_weight_is_scaffold() -> None:
    scene = federation("full")
    same = {"client.rate_floor": 1.0, "server.strategy.inner.lr": 1.0, "server.strategy.gamma": 1.0}
    assert torch.allclose(path("fedmoswa", scene, **same), path("scaffold", scene), rtol=0, atol=1e-12)
    assert not torch.allclose(path("fedmoswa", **same), path("scaffold"), rtol=0, atol=1e-6)


def test_both_rates_of_fedmoswas_variate_agree_where_the_rate_is_constant() -> None:
    def paths(floor: float) -> list[Tensor]:
        return [path("fedmoswa", client__rate_floor=floor, client__correction__variate_rate=rate) for rate in ("sum", "mean")]

    assert torch.allclose(*paths(1.0), rtol=0, atol=1e-12)
    assert not torch.allclose(*paths(0.1), rtol=0, atol=1e-6)


def test_fedwmsam_without_momentum_in_its_mixture_is_scaffold() -> None:
    """alpha close to 1 leaves the gradient and (c - c_i); the momentum's weight is 1 - alpha."""
    almost = {RHO: 0.0, "server.strategy.alpha": 1 - 1e-9, "server.strategy.alpha_rate": 0.0}
    assert torch.allclose(path("fedwmsam", **almost), path("scaffold"), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "held"), [("scaffold", "c"), ("fedcm", "m"), ("fedgamma", "c")])
def test_a_falling_rate_leaves_states_in_units_of_a_gradient(method: str, held: str) -> None:
    """Steps so short on one batch that the gradient is the same in all of them: what is kept is that gradient, however the rate falls."""
    scene, states = federation(), []
    schedule = [{**e, "lr": 1e-6, "batches": {c: [b[0]] * len(b) for c, b in e["batches"].items()}} for e in scene["schedule"]]
    for floor in (1.0, 0.5, 0.0):
        played = stage(method, {**scene, "schedule": schedule}, client__rate_floor=floor, client__optimizer__weight_decay=0.0)
        played.play(1)
        states.append(flat(played.strategy.state)[held])
    assert float(states[0].norm()) > 1e-2
    assert all(torch.allclose(state, states[0], rtol=0, atol=1e-4) for state in states)


def test_fednova_takes_back_a_falling_rate_of_unequal_clients() -> None:
    scene = federation("unequal_steps", "fednova")
    rate = LocalRate(0.1)
    played = stage("fedavg", scene, client__rate_floor=0.1)
    played.play(1)
    seen, start = played.place.seen, torch.tensor(scene["init"], dtype=torch.float64)
    normalized = torch.stack([(seen[c].x - start) / rate.reach(seen[c].steps) for c in seen]).mean(dim=0)
    reach = sum(rate.reach(seen[c].steps) for c in seen) / len(seen)
    assert torch.allclose(path("fednova", scene, client__rate_floor=0.1)[0], start + reach * normalized, rtol=0, atol=1e-12)


def test_a_private_clients_update_is_short_and_its_noise_has_the_published_deviation() -> None:
    scene, clip = federation(), {"client.correction.clip": 0.01}
    scene = {**scene, "schedule": [{**e, "noise": {str(c): [1.0] * 43 for c in e["clients"]}} for e in scene["schedule"]]}
    noisy, quiet = (
        stage("dp_fedsam", scene, client__correction__sigma=sigma, client__correction__scope="vector", **clip) for sigma in (0.5, 0.0)
    )
    noisy.play(1)
    quiet.play(1)
    assert torch.allclose(noisy.strategy.w - quiet.strategy.w, torch.full((43,), 0.5 * 0.01 / 2**0.5, dtype=torch.float64), atol=1e-12)
    assert all(float(result.delta.norm()) == pytest.approx(0.01) for result in quiet.place.seen.values())


def test_fedsmoo_sends_a_perturbation_of_length_rho_and_opposite_ones_agree() -> None:
    scene = federation("full")
    sent = {}
    for variant, upload in (("mu_active", "mu"), ("mu_minus_last_active", "mu_minus_last"), ("minus_mu_all", "mu_change")):
        played = stage("fedsmoo", scene, server__strategy__variant=variant, client__correction__upload=upload)
        played.play(1)
        sent[variant] = played.strategy.state["s"]
        assert float(sent[variant].norm()) == pytest.approx(0.1, rel=1e-5)
    assert torch.allclose(sent["mu_active"], -sent["minus_mu_all"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "feddyn", "fedsmoo", "fednova", "fedexp", "fedgf", "fedgloss", "fedgmt"])
def test_the_order_of_clients_changes_nothing_beyond_rounding(method: str) -> None:
    scene = federation()
    names = {str(old): str(3 - old) for old in range(4)}
    turned = {
        **scene,
        "data": {**scene["data"], "clients": scene["data"]["clients"][::-1]},
        "schedule": [
            {**entry, "clients": [3 - c for c in entry["clients"]], "batches": {names[c]: b for c, b in entry["batches"].items()}}
            for entry in scene["schedule"]
        ],
    }
    assert torch.allclose(path(method, turned), path(method), rtol=0, atol=1e-12)


def test_the_clip_sees_what_its_placement_says() -> None:
    clipped = {"client.optimizer.clip_norm": 0.3, "client.correction.lam": 1.0}
    paths = [path("feddyn", client__clip=where, **clipped) for where in ("fl-simulator", "loss-gradient", "everything")]
    free = path("feddyn", **{"client.correction.lam": 1.0})
    assert all(not torch.allclose(a, b, rtol=0, atol=1e-6) for i, a in enumerate(paths) for b in [*paths[:i], free])
    for where in ("fl-simulator", "loss-gradient", "everything"):
        idle = path("feddyn", client__clip=where, **{"client.optimizer.clip_norm": 1e6, "client.correction.lam": 1.0})
        assert torch.allclose(idle, free, rtol=0, atol=1e-12)


def test_rules_compose() -> None:
    adam = {"server.strategy.inner": {"name": "fedadam", "lr": 0.1, "tau": 0.01}}
    assert torch.allclose(path("scaffold", **adam)[0], path("fedadam")[0], rtol=0, atol=1e-12)
    assert not torch.allclose(path("scaffold", **adam)[1], path("fedadam")[1], rtol=0, atol=1e-6)
    assert torch.allclose(path("fedcm", **adam, **{"client.correction.alpha": 1.0}), path("fedadam"), rtol=0, atol=1e-12)
    averaged = stage("feddyn", **{"server.strategy": {"name": "swa", "inner": "feddyn", "start": 1, "cycle": 1}})
    vectors = [averaged.play(round) for round in range(1, 6)]
    assert torch.allclose(torch.stack(vectors), path("feddyn"), rtol=0, atol=0)
    assert torch.allclose(averaged.strategy.evaluated, torch.stack(vectors[2:]).mean(dim=0), rtol=0, atol=1e-12)
