"""Memory that runs out, replies that are none, and training past Flower's messages, which must not be told from training through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.client_app import FederatedClientApp, make
from clients.runtime import ClientRuntime
from experiments.settings.presets import expand
from fedsam.data import datasets
from fedsam.grid.serving import ClientTask, CrowdedError, ShardServer, serve
from fedsam.messages import codec, flower_private
from fedsam.messages.codec import AggregationSpec, PartialSum


def greedy(times: int) -> tuple[ClientApp, list[int]]:
    """Clients that run out of memory so many times, and their calls; they leave a mark in the context's state before."""
    app, calls = ClientApp(), list[int]()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        assert not context.state
        context.state["mark"] = message.content["mark"]
        calls.append(len(calls))
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return Message(RecordDict(), reply_to=message)

    return app, calls


def asked(app: ClientApp, *, shared: bool = False) -> tuple[Message, RecordDict]:
    flower_private.set_current_run(flower_private.new_run())
    content = RecordDict({"mark": MetricRecord({"here": 1})})
    message = Message(content, dst_node_id=1, message_type="train")
    flower_private.set_message_id(message, "0")
    return serve(app, ClientTask(message.metadata, {}, {}, {}), content, RecordDict(), shared=shared)


@pytest.mark.parametrize("times", [0, 1])
def test_a_client_that_runs_out_of_memory_once_is_tried_again(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    app, calls = greedy(times)
    reply, state = asked(app, shared=True)
    assert not reply.has_error()
    assert list(state) == ["mark"]
    assert len(calls) == times + 1
    assert len(emptied) == times


def test_a_client_that_does_not_fit_wants_fewer_on_its_gpu_and_alone_is_an_error() -> None:
    with pytest.raises(CrowdedError):
        asked(greedy(2)[0], shared=True)
    reply, state = asked(greedy(2)[0])
    assert reply.error.code == flower_private.CLIENT_APP_RAISED
    assert reply.error.reason.startswith("the GPU's memory is too small for one client alone: lower the batch size")
    assert not state


def unanswering(kind: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return {"none": None, "itself": message}[kind]  # type: ignore[return-value]

    return app


@pytest.mark.parametrize(("kind", "type"), [("none", "NoneType"), ("itself", "Message")])
def test_what_is_no_reply_is_an_error(kind: str, type: str) -> None:
    reply, _ = asked(unanswering(kind))
    assert reply.error.code == flower_private.CLIENT_APP_RAISED
    assert reply.error.reason.startswith(f"TypeError: the ClientApp gave a {type} that is no reply to its message")


class Single(ClientApp):
    """An app that is not called past the messages."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._inner = app

    def __call__(self, message: Message, context: Context) -> Message:
        return self._inner(message, context)


def federation(**client: Any) -> tuple[ClientApp, ClientRuntime, dict[str, Any]]:
    """A client app, its runtime, and the run config of an experiment with running statistics and states that clients keep."""
    settings = {
        "data": {"dataset": "digits", "clients": 4, "examples": 200},
        "model": {"name": "tests.clients.test_runtime:Features", "kind": "buffer"},
        "client": {"batch_size": 20, "correction": "control_variate", "optimizer_state": "keep", **client},
        "compute": {"grid": "inline"},
    }
    experiment, dataset = expand(settings), datasets.load("digits")
    return make(dataset), ClientRuntime.of(experiment, dataset), {"experiment": experiment.dumps()}


def served(app: ClientApp, runtime: ClientRuntime, run_config: dict[str, Any], rounds: int = 2) -> tuple[list[PartialSum], Any, bool]:
    """The sums of a shard of three clients over some rounds, the states that it leaves, and whether it was served without messages."""
    flower_private.set_current_run(flower_private.new_run())
    w = runtime.network.initial
    vectors = {"w": w, "buffers": runtime.network.buffers, "c": torch.zeros_like(w)}
    spec = AggregationSpec.from_vectors(vectors, ["population.c"], "examples")
    sums, states = [], {node: RecordDict() for node in (1, 2, 3)}
    for round in range(1, rounds + 1):
        content = codec.encode_broadcast(codec.arrays(vectors), round, spec=spec, constants=runtime.network.constants)
        messages = [Message(content, dst_node_id=node, message_type="train") for node in states]
        for number, message in enumerate(messages):
            flower_private.set_message_id(message, str(number))
        server = ShardServer(app, messages[0])
        for message in messages:
            node = message.metadata.dst_node_id
            task = ClientTask(message.metadata, {}, {"partition-id": node - 1}, run_config)
            usable, state = server.serve(task, content, states[node])
            states[node] = state if usable else states[node]
        (reply,) = server.replies()
        total = codec.decode_partial_sum(reply.content)
        assert total is not None
        sums.append(total)
        if total.nodes:
            vectors = {"w": vectors["w"] + total.vectors["delta"], "buffers": total.vectors["buffers"], "c": vectors["c"] + 0.1}
    return sums, {node: {name: dict(record) for name, record in state.items()} for node, state in states.items()}, server.direct


def known(total: PartialSum) -> tuple[Any, ...]:
    """All of a sum but the seconds that it took."""
    metrics = {name: values for name, values in total.metrics.items() if name != "seconds"}
    vectors = {name: vector.numpy().tobytes() for name, vector in total.vectors.items()}
    return list(total.nodes), total.weight, vectors, metrics, total.bytes, total.failures


def test_training_past_messages_gives_the_same_bits_metrics_and_states() -> None:
    app, runtime, run_config = federation()
    (past, states, direct), (through, others, other) = (served(one, runtime, run_config) for one in (app, Single(app)))
    assert (direct, other) == (True, False)
    assert [known(total) for total in past] == [known(total) for total in through]
    assert {node: sorted(state) for node, state in states.items()} == {
        node: ["correction", "optimizer", "optimizer-state"] for node in (1, 2, 3)
    }
    assert repr(states) == repr(others)
    for node, state in states.items():
        for name, array in state["correction"].items():
            assert array.data == others[node]["correction"][name].data


@pytest.mark.parametrize("lr", [1e30, 0.1])
def test_clients_that_fail_past_messages_say_the_same_and_keep_their_states(lr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    app, runtime, run_config = federation(optimizer={"name": "sgd", "lr": lr})
    if lr < 1:
        train = ClientRuntime.train

        def failing(self: ClientRuntime, broadcast: codec.Broadcast, client: int, *others: Any) -> Any:
            if client == 1:
                raise ValueError("no such client")
            return train(self, broadcast, client, *others)

        monkeypatch.setattr(ClientRuntime, "train", failing)
    (past, states, _), (through, others, _) = (served(one, runtime, run_config, 1) for one in (app, Single(app)))
    assert past[0].nodes == through[0].nodes == ([3] if lr > 1 else [1, 3])  # the third client takes one step, which stays finite
    first = [{node: what.splitlines()[0] for node, what in total.failures.items()} for total in (past[0], through[0])]
    assert first[0] == first[1]
    assert ("diverged" if lr > 1 else "failed: ValueError: no such client") in first[0][2]
    assert [node for node, state in states.items() if not state] == [node for node, state in others.items() if not state]
    assert not states[2]


def test_memory_that_runs_out_past_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    app, runtime, run_config = federation()
    calls: list[int] = []

    def greedy(self: FederatedClientApp, content: RecordDict, context: Context) -> codec.Update:
        calls.append(len(calls))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(FederatedClientApp, "train_update", greedy)
    (total,), _, _ = served(app, runtime, run_config, 1)
    assert len(calls) == 2 * 3
    assert all(what.startswith("failed: the GPU's memory is too small for one client alone") for what in total.failures.values())
