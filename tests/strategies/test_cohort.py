"""The shell around the rules: means, refused updates, lost replies, cohorts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from clients.app import answer
from fedsam import wire
from fedsam.pool import ActorPool
from fedsam.ray_grid import RayGrid
from fedsam.ray_session import ray_session
from strategies.plan import RunError
from strategies.sampling import fixed, independent, listed
from tests.replay_strategies import Stage, flat
from tests.strategies.test_identities import federation, stage

Spoil = Callable[[wire.Update], wire.Update]


def spoiled(played: Stage, client: int, round: int, spoil: Spoil) -> Stage:
    """Changes what one client sends in one round."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = answer(played.place, message, context)
        if int(context.node_config["partition-id"]) == client and message.content["config"]["server-round"] == round:
            return Message(wire.encode_update(spoil(wire.decode_update(reply.content))), reply_to=message)
        return reply

    played.grid._app = app
    return played


def swap(name: str, value: Tensor) -> Spoil:
    return lambda update: wire.Update({**update.vectors, name: value}, update.metrics)


def drop(name: str) -> Spoil:
    return lambda update: wire.Update({key: v for key, v in update.vectors.items() if key != name}, update.metrics)


BAD: dict[str, tuple[Spoil, str]] = {
    "not finite": (swap("delta", torch.full((43,), torch.nan, dtype=torch.float64)), "sent a non-finite delta"),
    "wrong shape": (swap("delta", torch.zeros(42, dtype=torch.float64)), r"sent a delta of shape \(42,\)"),
    "wrong type": (swap("delta", torch.zeros(43)), "and type torch.float32; expected shape"),
    "nothing": (drop("delta"), "sent no delta"),
    "half": (drop("population.c"), "sent no population.c"),
    "second not finite": (swap("population.c", torch.full((43,), torch.inf, dtype=torch.float64)), "non-finite population.c"),
}


@pytest.mark.parametrize("what", BAD)
def test_an_update_that_cannot_be_used_stops_the_run_and_names_client_and_round(what: str) -> None:
    spoil, message = BAD[what]
    scene = federation()
    client = scene["schedule"][1]["clients"][0]
    played = spoiled(stage("scaffold", scene), client, 2, spoil)
    before = played.play(1), played.strategy.state
    with pytest.raises(RunError, match=rf"client {client} in round 2 \(seed 0\) .*{message}"):
        played.play(2)
    assert (played.strategy.w, played.strategy.state) == before


@pytest.mark.parametrize("what", ["not finite", "wrong shape", "nothing"])
@pytest.mark.parametrize(("method", "name"), [("scaffold", "c"), ("feddyn", "h"), ("fedsmoo", "h"), ("fedlesam_d", "h")])
def test_with_failures_allowed_a_refused_update_counts_nowhere(what: str, method: str, name: str) -> None:
    spoil, _ = BAD[what]
    scene = federation("full")
    played = spoiled(stage(method, scene, server__on_client_error="drop"), 1, 2, spoil)
    for round in range(1, 6):
        played.play(round)
        assert played.strategy.last is not None
        failures = played.strategy.last.failures
        assert list(failures) == ([1] if round == 2 else [])
        assert sorted((*played.strategy.last.metrics, *failures)) == [0, 1, 2, 3]
    # What the last round left pending counts: the server accepted it.
    counted = [played.grid._states[client + 1].array_records["pending"] for client in range(4)]
    mean = torch.stack([wire.tensors(record)[name] for record in counted]).mean(dim=0)
    assert torch.allclose(flat(played.strategy.state)[name], mean, rtol=0, atol=1e-12)
    without = [entry if round != 1 else {**entry, "clients": [0, 2, 3]} for round, entry in enumerate(scene["schedule"])]
    excluded = stage(method, {**scene, "schedule": without})
    assert torch.equal(played.strategy.w, [excluded.play(round) for round in range(1, 6)][-1])  # type: ignore[arg-type]


def test_a_run_in_which_all_fail_stops() -> None:
    scene = federation()
    scene = {**scene, "schedule": [{**scene["schedule"][0], "clients": [2]}]}
    played = spoiled(stage("fedavg", scene, server__on_client_error="drop"), 2, 1, BAD["not finite"][0])
    with pytest.raises(RunError, match="client 2 in round 1"):
        played.play(1)


def test_without_failures_allowed_clients_keep_one_copy_of_their_state() -> None:
    played = stage("feddyn")
    for round in range(1, 6):
        played.play(round)
    assert all("pending" not in state for state in played.grid._states.values())


def load_deadly(method: str, flag: Path) -> ClientApp:
    """The method's clients; the first one that trains in round 2 takes its process down after that, once."""
    place = stage(method, federation("full")).place
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = answer(place, message, context)
        if message.content["config"]["server-round"] == 2 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    return app


def test_an_actor_killed_after_training_leaves_no_trace(tmp_path: Path) -> None:
    scene, flag = federation("full"), tmp_path / "killed"
    calm = stage("fedlesam_s", scene)
    undisturbed = [calm.play(round) for round in range(1, 6)]
    with ray_session(cpus=2):
        grid = RayGrid(ActorPool(partial(load_deadly, "fedlesam_s", flag), actors=2), 4, {}, 1)
        played = stage("fedlesam_s", scene)
        object.__setattr__(played, "grid", grid)
        vectors = [played.play(round) for round in range(1, 6)]
        kept = [wire.tensors(_state(grid, client).array_records["correction"])["c"] for client in range(4)]
    assert flag.exists()
    assert all(torch.equal(a, b) for a, b in zip(vectors, undisturbed, strict=True))
    assert torch.allclose(flat(played.strategy.state)["c"], torch.stack(kept).mean(dim=0), rtol=0, atol=1e-12)


def _state(grid: RayGrid, client: int) -> RecordDict:
    import ray

    state: RecordDict = ray.get(grid._states[client + 1])
    return state


def test_cohorts_depend_on_seed_and_round_alone() -> None:
    many = [fixed(round, clients=50, cohort=5, seed=0) for round in range(1, 200)]
    assert all(len(set(cohort)) == 5 and list(cohort) == sorted(cohort) for cohort in many)
    assert set(many[0]) != set(many[1])
    assert fixed(7, clients=50, cohort=5, seed=0) == many[6] != fixed(7, clients=50, cohort=5, seed=1)
    drawn = [independent(round, clients=50, probability=0.1, seed=0) for round in range(1, 400)]
    assert all(cohort for cohort in drawn)
    assert len({len(cohort) for cohort in drawn}) > 5
    assert np.mean([len(cohort) for cohort in drawn]) == pytest.approx(5, abs=0.4)
    assert listed(2, cohorts=[[0], [3, 1]]) == (1, 3)


def test_metrics_of_clients_weigh_as_their_updates_do() -> None:
    played = stage("fednova", server__weights="examples")
    played.play(1)
    seen, place = played.place.seen, played.place
    sizes = np.array([place.federation.examples(client) for client in seen])
    tau = np.average([r.sent.metrics["tau"] for r in seen.values()], weights=sizes)
    start = torch.tensor(federation()["init"], dtype=torch.float64)
    shares = torch.from_numpy(sizes / sizes.sum())
    expected = start + tau * (shares @ torch.stack([r.delta for r in seen.values()]))
    assert torch.allclose(played.strategy.w, expected, rtol=0, atol=1e-12)  # type: ignore[arg-type]
