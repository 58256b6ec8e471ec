"""The shell around the rules: means, refused updates, lost replies, cohorts."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from clients.client_app import answer
from fedsam.grid import scheduler
from fedsam.grid.inline import InlineGrid
from fedsam.grid.pool import ActorPool
from fedsam.grid.ray_grid import RayGrid
from fedsam.grid.session import import_ray
from fedsam.messages import codec
from strategies.round import RunError
from strategies.sampling import drawn, fixed, independent, listed
from tests.golden_replay.strategies import Stage, app_of, flat
from tests.strategies.test_identities import federation, stage
from tests.support.shared_ray import SharedRay

Spoil = Callable[[codec.Update], codec.Update]


def spoiled(played: Stage, client: int, round: int, spoil: Spoil, *others: int) -> Stage:
    """Changes what one client, or with `others` several, send in one round."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = answer(played.place, message, context)
        if int(context.node_config["partition-id"]) in (client, *others) and message.content["config"]["server-round"] == round:
            return Message(codec.encode_update(spoil(codec.decode_update(reply.content))), reply_to=message)
        return reply

    played.grid._app = app
    return played


def swap(name: str, value: Tensor) -> Spoil:
    return lambda update: codec.Update({**update.vectors, name: value}, update.metrics)


def drop(name: str) -> Spoil:
    return lambda update: codec.Update({key: v for key, v in update.vectors.items() if key != name}, update.metrics)


def count(name: str, value: float) -> Spoil:
    return lambda update: codec.Update(update.vectors, {**update.metrics, name: value})


BAD: dict[str, tuple[Spoil, str]] = {
    "not finite": (swap("delta", torch.full((43,), torch.nan, dtype=torch.float64)), "sent a non-finite delta"),
    "wrong shape": (swap("delta", torch.zeros(42, dtype=torch.float64)), r"sent a delta of shape \(42,\)"),
    "wrong type": (swap("delta", torch.zeros(43)), "and type torch.float32; expected shape"),
    "nothing": (drop("delta"), "sent no delta"),
    "half": (drop("population.c"), "sent no population.c"),
    "no examples": (count("num-examples", 0.0), "sent 0.0 as metric num-examples; expected a finite number above 0"),
    "absurd examples": (count("num-examples", -7.0), "sent -7.0 as metric num-examples"),
    "no number": (count("num-examples", math.nan), "sent nan as metric num-examples"),
    "endless steps": (count("steps", math.inf), "sent inf as metric steps"),
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


@pytest.mark.parametrize("what", ["not finite", "wrong shape", "nothing", "no examples"])
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
    counted = [played.grid.states[client + 1].array_records["pending"] for client in range(4)]
    mean = torch.stack([codec.tensors(record)[name] for record in counted]).mean(dim=0)
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


@pytest.mark.parametrize(("quorum", "enough"), [(3, True), (4, False), (9, False), (0.75, True), (0.76, False)])
def test_too_few_usable_updates_stop_the_run(quorum: float, enough: bool) -> None:
    changes = {"server__on_client_error": "drop", "server__quorum": quorum}
    played = spoiled(stage("fedavg", federation("full"), **changes), 1, 2, BAD["not finite"][0])
    played.play(1)
    if enough:
        played.play(2)
        return
    with pytest.raises(RunError, match=r"3 of 4 clients are left in round 2 \(seed 0\), server.quorum is .*client 1 .* non-finite"):
        played.play(2)


@pytest.mark.parametrize("method", ["fedavg", "feddyn", "fedsmoo"])
def test_a_client_that_fails_once_is_asked_again_and_leaves_no_trace(method: str) -> None:
    scene, times = federation("full"), []

    def once(update: codec.Update) -> codec.Update:
        times.append(len(times))
        return BAD["not finite"][0](update) if len(times) == 1 else update

    played, calm = spoiled(stage(method, scene, server__on_client_error="retry"), 1, 2, once), stage(method, scene)
    for round in range(1, 4):
        assert torch.allclose(played.play(round), calm.play(round), rtol=0, atol=1e-12)
        last = played.strategy.last
        assert last is not None
        assert (list(last.failures), list(last.retried)) == ([], [1] if round == 2 else [])
        assert list(last.metrics) == [0, 1, 2, 3]
    assert len(times) == 2


def test_a_client_that_fails_twice_stops_the_run() -> None:
    played = spoiled(stage("fedavg", federation("full"), server__on_client_error="retry"), 1, 1, BAD["not finite"][0])
    with pytest.raises(RunError, match=r"client 1 in round 1 .* non-finite"):
        played.play(1)


class Singly(InlineGrid):
    """Hands out single replies in any order, as Flower's runtime does."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        for message in sent:
            message.content["config"].pop("fedsam.merge", None)
        return list(super().send_and_receive(sent, timeout=timeout))[::-1]


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "feddyn", "fednova", "fedexp", "fedsmoo"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("weights", ["uniform", "examples"])
def test_whoever_adds_the_updates_up_the_bits_are_the_same(method: str, size: int, weights: str) -> None:
    changes = {"compute__shard_size": size, "server__weights": weights}
    merged, single = (stage(method, federation("full"), **changes) for _ in range(2))
    object.__setattr__(merged, "grid", InlineGrid(lambda: app_of(merged.place), 4, {}, shard_size=size))
    object.__setattr__(single, "grid", Singly(lambda: app_of(single.place), 4, {}, shard_size=size))
    for round in range(1, 4):
        assert torch.equal(merged.play(round), single.play(round))
        assert merged.strategy.last is not None and single.strategy.last is not None
        assert merged.strategy.last.bytes_up == single.strategy.last.bytes_up
        assert _unclocked(merged.strategy.last.metrics) == _unclocked(single.strategy.last.metrics)


@pytest.mark.parametrize("method", ["fedavg", "scaffold"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_updates_of_clients_asked_again_add_up_to_the_same_bits_too(method: str, size: int) -> None:
    def twice() -> Spoil:
        """Two clients of different shards fail once."""
        times = iter([BAD["not finite"][0]] * 2)
        return lambda update: next(times, lambda same: same)(update)

    changes = {"compute__shard_size": size, "server__weights": "examples", "server__on_client_error": "retry"}
    merged, single = (stage(method, federation("full"), **changes) for _ in range(2))
    object.__setattr__(merged, "grid", InlineGrid(lambda: app_of(merged.place), 4, {}, shard_size=size))
    object.__setattr__(single, "grid", Singly(lambda: app_of(single.place), 4, {}, shard_size=size))
    for played in (merged, single):
        spoiled(played, 1, 2, twice(), 3)
    for round in range(1, 6):
        assert torch.equal(merged.play(round), single.play(round))
        assert merged.strategy.last is not None and single.strategy.last is not None
        assert list(merged.strategy.last.retried) == list(single.strategy.last.retried) == ([1, 3] if round == 2 else [])
        assert list(merged.strategy.last.metrics) == list(single.strategy.last.metrics) == [0, 1, 2, 3]


def _unclocked(metrics: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
    return {client: {name: value for name, value in of.items() if name != "seconds"} for client, of in metrics.items()}


def test_without_failures_allowed_clients_keep_one_copy_of_their_state() -> None:
    played = stage("feddyn")
    for round in range(1, 6):
        played.play(round)
    assert all("pending" not in state for state in played.grid.states.values())


def load_deadly(method: str, folder: Path) -> ClientApp:
    """The method's clients; the first one that trains in round 2, and in round 4, takes its process down after that, once."""
    place = stage(method, federation("full")).place
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply, round = answer(place, message, context), message.content["config"]["server-round"]
        if round in (2, 4):
            with suppress(FileExistsError):
                (folder / f"killed-{round}").touch(exist_ok=False)  # by one of two actors that are here at once
                os.kill(os.getpid(), signal.SIGKILL)
        return reply

    return app


@pytest.fixture
def two(shared_ray: SharedRay) -> Iterator[ActorPool]:
    with shared_ray.pool(2) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize(("method", "mirror"), [("fedavg", None), ("scaffold", "c"), ("fedsmoo", "h")])
def test_actors_killed_after_training_leave_no_trace(tmp_path: Path, two: ActorPool, method: str, mirror: str | None) -> None:
    scene = federation("full")
    calm = stage(method, scene)
    undisturbed = [calm.play(round) for round in range(1, 6)]
    grid, notes = RayGrid(two, 4, {}, 1), []
    two.supply(make=partial(load_deadly, method, tmp_path))
    grid.warn = notes.append
    played = stage(method, scene)
    object.__setattr__(played, "grid", grid)
    vectors = [played.play(round) for round in range(1, 6)]
    assert {path.name for path in tmp_path.iterdir()} == {"killed-2", "killed-4"}
    assert len(notes) == 2
    assert all(note.startswith("an actor died; ") for note in notes)
    assert all(torch.equal(a, b) for a, b in zip(vectors, undisturbed, strict=True))
    if mirror:
        kept = [codec.tensors(_state(grid, client).array_records["correction"])[mirror] for client in range(4)]
        assert torch.allclose(flat(played.strategy.state)[mirror], torch.stack(kept).mean(dim=0), rtol=0, atol=1e-12)


def load_lethal() -> ClientApp:
    """FedAvg's clients; client 1 fails, and takes the process down if it is an actor's."""
    place, app = stage("fedavg", federation("full")).place, ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] != 1:
            return answer(place, message, context)
        if import_ray(private=True).get_runtime_context().get_actor_id():
            os._exit(1)
        raise OSError

    return app


@pytest.mark.slow
def test_without_a_client_that_kills_its_actors_the_others_add_up_as_if_it_had_failed(
    two: ActorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MAX_LOSSES", 1)
    vectors = []
    two.supply(make=load_lethal)
    for grid in (InlineGrid(load_lethal, 4, {}, shard_size=3), RayGrid(two, 4, {}, 3)):
        played = stage("fedavg", federation("full"), compute__shard_size=3, server__on_client_error="drop")
        object.__setattr__(played, "grid", grid)
        vectors.append(played.play(1))
        assert played.strategy.last is not None
        assert (list(played.strategy.last.metrics), list(played.strategy.last.failures)) == ([0, 2, 3], [1])
    assert torch.equal(*vectors)


def _state(grid: RayGrid, client: int) -> RecordDict:
    import ray

    state: RecordDict = ray.get(grid.states.get(client + 1))
    return state


def test_cohorts_depend_on_seed_and_round_alone() -> None:
    def five(round: int, seed: int = 0) -> tuple[int, ...]:
        return drawn(round, draw=fixed, clients=50, cohort=5, seed=seed)

    many = [five(round) for round in range(1, 200)]
    assert all(len(set(cohort)) == 5 and list(cohort) == sorted(cohort) for cohort in many)
    assert set(many[0]) != set(many[1])
    assert five(7) == many[6] != five(7, seed=1)
    few = [drawn(round, draw=independent, clients=50, cohort=5, seed=0) for round in range(1, 400)]
    assert all(few)
    assert len({len(cohort) for cohort in few}) > 5
    assert np.mean([len(cohort) for cohort in few]) == pytest.approx(5, abs=0.4)
    assert listed(2, cohorts=[[0], [3, 1]]) == (1, 3)


def test_metrics_of_clients_weigh_as_their_updates_do() -> None:
    played = stage("fednova", server__weights="examples")
    played.play(1)
    seen, place = played.place.seen, played.place
    sizes = np.array([place.federation.num_examples(client) for client in seen])
    tau = np.average([r.payload.metrics["tau"] for r in seen.values()], weights=sizes)
    start = torch.tensor(federation()["init"], dtype=torch.float64)
    shares = torch.from_numpy(sizes / sizes.sum())
    expected = start + tau * (shares @ torch.stack([r.delta for r in seen.values()]))
    assert torch.allclose(played.strategy.w, expected, rtol=0, atol=1e-12)  # type: ignore[arg-type]
