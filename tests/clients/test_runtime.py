"""What the clients of one process share never carries anything from one client to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clients import runtime
from clients.local import LocalResult
from clients.optimizers import OPTIMIZERS
from clients.optimizers.base import may_draw
from clients.runtime import ClientRuntime
from experiments.settings.presets import expand
from fedsam.config import ConfigError
from fedsam.data import datasets
from fedsam.messages.codec import Broadcast, WireError
from tests.clients.optimizers.test_torch_adapter import SETTINGS


class Features(nn.Module):
    """Random features, drawn with NumPy; an unused head; layers that training changes beside the gradient."""

    counts: Tensor

    def __init__(self, image: tuple[int, int, int], classes: int, kind: str = "buffer") -> None:
        super().__init__()
        size = int(np.prod(image))
        drawn = torch.tensor(np.random.randn(16, size) * 0.03, dtype=torch.float32)
        if kind == "int":
            self.register_buffer("projection", torch.tensor(np.random.permutation(size)[:16]))
        elif kind != "frozen":
            self.register_buffer("projection", drawn)
        else:
            self.projection = nn.Parameter(drawn, requires_grad=False)
        self.norm: nn.Module = nn.LayerNorm(16) if kind == "layer norm" else nn.BatchNorm1d(16, momentum=None)
        self.head, self.unused = nn.Linear(16, classes), nn.Linear(16, classes)
        self.register_buffer("counts", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.counts += 1
        x = x.flatten(1)
        features = torch.cos(x @ self.projection.T) if self.projection.is_floating_point() else x[:, self.projection]
        scores: Tensor = self.head(self.norm(features)) / self.counts.clamp(min=1)
        return scores


def made(kind: str = "buffer", **client: Any) -> ClientRuntime:
    settings = {
        "rounds": 2,
        "data": {"dataset": "digits", "clients": 4, "examples": 200},
        "model": {"name": f"{__name__}:Features", "kind": kind},
        "client": {"batch_size": 20, **client},
        "server": {"participation": 1.0},
        "compute": {"grid": "inline"},
    }
    return ClientRuntime.of(expand(settings), datasets.load("digits"))


def train(runtime: ClientRuntime, client: int, **changes: Any) -> LocalResult:
    network = runtime.network
    start = made().network.buffers if "buffers" not in changes else changes["buffers"]
    vectors = {"w": network.initial, **({} if start is None else {"buffers": start})}
    return runtime.train(Broadcast(vectors, 1, "delta", constants=changes.get("constants", network.constants)), client, {}, None)


def test_a_client_sends_the_same_whoever_was_served_before() -> None:
    alone, after = made(), made()
    train(after, 0)
    results = [train(runtime, 1).delta for runtime in (alone, after)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(alone.network.buffers, after.network.buffers)


def test_what_an_optimizer_draws_depends_on_the_client_and_not_on_what_others_drew() -> None:
    settings = {"optimizer": {"name": "zosam", "lr": 0.1}}
    alone, after = made(**settings), made(**settings)
    assert may_draw(alone.optimizer)
    train(after, 0)
    assert torch.equal(train(alone, 1).delta, train(after, 1).delta)


def test_a_frozen_tensor_is_the_same_in_every_process_as_a_buffer_that_travels_is() -> None:
    np.random.seed(1)
    server = made("frozen")
    np.random.seed(2)
    client, travelling = made("frozen"), made("buffer")
    assert server.network.constants == client.network.constants
    w = client.network.initial
    statistics = client.network.buffers
    sent = client.train(Broadcast({"w": w, "buffers": statistics}, 1, "delta", constants=server.network.constants), 0, {}, None)
    assert torch.equal(sent.delta, train(travelling, 0).delta)


def test_integers_drawn_by_the_model_are_the_same_in_every_process() -> None:
    runtimes = []
    for drawn in (1, 2):
        np.random.seed(drawn)
        runtimes.append(made("int"))
    server, client = runtimes
    assert server.network.constants == client.network.constants
    deltas = [train(runtime, 0, buffers=runtime.network.buffers).delta for runtime in runtimes]
    assert torch.equal(deltas[0], deltas[1])


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_gpu_keeps_all_bits_of_float32_and_its_convolutions_give_equal_bits(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    flags = [(torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "benchmark")]
    for holder, name in flags:
        monkeypatch.setattr(holder, name, True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(runtime, "Network", lambda *_: None)  # there may be no GPU
    runtime.network(expand({"model": "mlp"}), datasets.load("digits"), torch.device(kind), torch.float32)
    assert [getattr(holder, name) for holder, name in flags] == [kind == "cpu"] * 3
    assert torch.backends.cudnn.deterministic == (kind == "cuda")


def test_tensors_that_differ_from_the_servers_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"model: tensors that the server does not send \(counts, norm\.num_batches_tracked\) differ"):
        train(made(), 0, constants="another")


def test_missing_statistics_are_refused_not_taken_from_the_client_before() -> None:
    with pytest.raises(WireError, match="a broadcast for this model holds an array 'buffers' of"):
        train(made(), 0, buffers=None)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_head_that_is_not_used_is_left_alone(name: str, base: str) -> None:
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, **SETTINGS.get(name, {})}
    runtime = made("layer norm", optimizer={"name": name, "base": base, **settings}, steps=3)
    delta = runtime.network.layout.views(train(runtime, 0, buffers=runtime.network.buffers).delta)
    assert not delta["unused.weight"].any()
    assert not delta["unused.bias"].any()
    assert delta["head.weight"].any()
