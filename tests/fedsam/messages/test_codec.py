"""Records hold what was put into them, and go over Flower's wire as Flower's own do."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedsam.messages import client_state, codec
from fedsam.messages.codec import AggregationSpec, Answer, Broadcast, PartialSum, Update, WireError
from fedsam.messages.tensor_array import TensorArray

CPU = torch.device("cpu")
TENSORS = [torch.arange(5.0), torch.arange(3), torch.zeros(0), torch.rand(2, 3).double(), torch.rand(3, 2).t(), torch.tensor(True)]


@pytest.mark.parametrize("tensor", TENSORS)
def test_a_tensor_is_an_array_of_flowers_wherever_it_goes(tensor: Tensor) -> None:
    flowers = Array(tensor.numpy())
    assert (TensorArray(tensor).dtype, TensorArray(tensor).shape) == (flowers.dtype, flowers.shape)
    assert torch.equal(TensorArray(tensor).tensor(), tensor)
    assert torch.equal(torch.from_numpy(TensorArray(tensor).numpy()), tensor)
    assert ArrayRecord({"w": TensorArray(tensor)}).object_id == ArrayRecord({"w": flowers}).object_id
    for copied in (pickle.loads(pickle.dumps(TensorArray(tensor))), copy.deepcopy(TensorArray(tensor))):
        assert torch.equal(copied.tensor(), tensor)
        assert (copied.dtype, copied.shape, copied.stype, copied.data) == (flowers.dtype, flowers.shape, flowers.stype, flowers.data)
    encoded = TensorArray(tensor)
    assert encoded.data == flowers.data
    assert torch.equal(encoded.tensor(), tensor) and torch.equal(torch.from_numpy(encoded.numpy()), tensor)


def test_an_array_is_no_view_of_its_tensor_and_gives_none() -> None:
    tensor = torch.zeros(2)
    record = codec.arrays({"w": tensor})
    tensor += 1
    codec.tensors(record)["w"].add_(1)
    record["w"].numpy()[:] = 1
    assert codec.views(record)["w"].tolist() == [0.0, 0.0]


def test_an_update_is_not_encoded_where_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TensorArray, "data")
    content = codec.encode_update(Update({"delta": torch.ones(2)}, {"steps": 1}))
    assert codec.decode_update(content).vectors["delta"].tolist() == [1.0, 1.0]
    buffers: list[pickle.PickleBuffer] = []
    sent = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    received = pickle.loads(sent, buffers=[bytes(buffer) for buffer in buffers])  # read-only, as in Ray's shared memory
    assert codec.decode_update(received).vectors["delta"].tolist() == [1.0, 1.0]


def test_a_broadcast_has_its_vectors_and_its_spec() -> None:
    vectors = {"w": torch.ones(2), "buffers": torch.zeros(1)}
    spec = AggregationSpec.from_vectors(vectors, ["mean.mu", "metrics.tau"], "uniform")
    content = codec.encode_broadcast(codec.arrays(vectors), 3, accepted=2, spec=spec)
    got = codec.decode_broadcast(content)
    assert (got.round, got.reply, got.accepted, got.vectors["w"].tolist()) == (3, "delta", 2, [1.0, 1.0])
    assert content["config"] == {  # the names on the wire
        "server-round": 3,
        "reply": "delta",
        "accepted": 2,
        "fedsam.merge": "uniform",
        "fedsam.expects": ["mean.mu", "metrics.tau"],
    }
    read = codec.decode_spec(content)
    assert read is not None
    assert (read.expects, read.weights) == (["mean.mu", "metrics.tau"], "uniform")
    assert {name: (like.shape, like.dtype) for name, like in read.like.items()} == {
        name: (like.shape, like.dtype) for name, like in spec.like.items()
    }
    assert codec.decode_spec(codec.encode_broadcast(codec.arrays(vectors), 3)) is None


def test_queries_and_answers_keep_what_they_hold() -> None:
    query = codec.encode_query(codec.arrays({"w": torch.ones(1)}), 2, {"measure": "line", "steps": 3})
    assert codec.decode_query(query)[1] == {"measure": "line", "steps": 3}
    slice = {"alphas": [0.0, 1.0], "losses": [0.5, 1.5]}
    for answer in (Answer({"loss": 0.5}), Answer({}, {"seconds": 2.0}, slice, {"classes": torch.tensor([3])}), Answer()):
        assert codec.decode_answer(codec.encode_answer(answer)) == answer


def test_sums_keep_what_they_hold() -> None:
    total = PartialSum([1, 3], 4.0, {}, {"loss": [0.5, 1.5]}, 8, {2: "failed: tired"})
    assert codec.decode_partial_sum(codec.encode_partial_sum(total)) == total
    assert codec.decode_partial_sum(codec.encode_update(Update({}, {}))) is None


def test_what_is_missing_is_named() -> None:
    vectors, config = codec.arrays({"w": torch.ones(1)}), ConfigRecord({"server-round": 1})
    with pytest.raises(WireError, match="array 'w'"):
        codec.decode_broadcast(RecordDict({"config": config}))
    with pytest.raises(WireError, match="'server-round'"):
        codec.decode_broadcast(RecordDict({"arrays": vectors}))
    with pytest.raises(WireError, match="a query holds"):
        codec.decode_query(RecordDict({"arrays": vectors, "config": config}))
    with pytest.raises(WireError, match="an update holds"):
        codec.decode_update(RecordDict({"metrics": MetricRecord()}))


@pytest.mark.parametrize(("accepted", "expected"), [(None, 2.0), (1, 2.0), (0, 1.0)])
def test_a_pending_correction_counts_once_its_round_is_accepted(accepted: int | None, expected: float) -> None:
    state = RecordDict()
    client_state.save_correction(state, {"c": torch.tensor([1.0])}, Broadcast({}, 0))
    client_state.save_correction(state, {"c": torch.tensor([2.0])}, Broadcast({}, 1, accepted=None if accepted is None else 0))
    for _ in range(2):
        assert client_state.load_correction(state, accepted, CPU)["c"].tolist() == [expected]
    assert list(state) == ["correction"]


def test_an_optimizers_state_comes_back() -> None:
    state = RecordDict()
    assert client_state.load_optimizer(state, CPU) is None
    client_state.save_optimizer(state, {"m": torch.ones(2), "step": 3, "window": [torch.zeros(1), 0.5], "mask": "01"})
    assert str(client_state.load_optimizer(state, CPU)) == str(
        {"m": torch.ones(2), "step": 3, "window": [torch.zeros(1), 0.5], "mask": "01"}
    )
    with pytest.raises(WireError, match="not set"):
        client_state.save_optimizer(state, {"seen": {1}})
