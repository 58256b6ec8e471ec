"""Updates added up: the mean is the mean, and neither shards nor threads change it more than they may."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from flwr.app import Error, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsam.messages import aggregation, codec, flower_private
from fedsam.messages.codec import AggregationSpec, PartialSum

EXPECTS = ("mean.mu", "population.c", "population.delta", "metrics.tau")
UPDATES = st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10), st.integers(1, 500)), min_size=1, max_size=9)


def spec(weights: str = "examples", size: int = 2) -> AggregationSpec:
    broadcast = {"w": torch.zeros(size, dtype=torch.float64), "buffers": torch.zeros(1, dtype=torch.float64)}
    return AggregationSpec.from_vectors(broadcast, EXPECTS, weights)  # type: ignore[arg-type]


def request(node: int) -> Message:
    flower_private.set_current_run(flower_private.new_run())
    vectors = codec.arrays({"w": torch.zeros(2, dtype=torch.float64), "buffers": torch.zeros(1).double()})
    return Message(codec.encode_broadcast(vectors, 1, spec=spec()), dst_node_id=node, message_type="train", group_id="1")


def reply(node: int, vector: torch.Tensor, examples: float, **changes: float) -> Message:
    names = ("delta", "mean.mu", "population.c")
    vectors = {name: (i + 1) * vector for i, name in enumerate(names)} | {"buffers": vector[:1]}
    metrics = dict.fromkeys(aggregation.NEEDED, 1.0) | {"num-examples": examples, "sent.tau": 2.0, "train-loss": math.nan}
    return Message(codec.encode_update(codec.Update(vectors, metrics | changes)), reply_to=request(node))


def summand(entry: tuple[float, float, float], node: int = 1, weights: str = "examples") -> PartialSum:
    return aggregation.partial_sum(reply(node, torch.tensor(entry[:2], dtype=torch.float64), entry[2]), spec(weights))


@settings(deadline=None)
@given(UPDATES, st.integers(1, 9), st.sampled_from(["examples", "uniform"]))
def test_the_sum_of_sums_is_the_mean_of_numpy(entries: list[tuple[float, float, int]], size: int, weights: str) -> None:
    shards = aggregation.shards(list(enumerate(entries, start=1)), size)
    total = aggregation.total([aggregation.total(summand(entry, node, weights) for node, entry in shard) for shard in shards])
    vectors, counts = np.array([entry[:2] for entry in entries]), np.array([entry[2] for entry in entries])
    mean = np.average(vectors, axis=0, weights=counts if weights == "examples" else None)
    assert list(total.nodes) == list(range(1, len(entries) + 1))
    assert np.allclose(total.vectors["delta"], mean, atol=1e-9)
    assert np.allclose(total.vectors["mean.mu"], 2 * mean, atol=1e-9)
    assert np.allclose(total.vectors["buffers"], mean[:1], atol=1e-9)
    assert np.allclose(total.vectors["population.c"], 3 * vectors.sum(axis=0), atol=1e-9)
    assert np.allclose(total.vectors["population.delta"], vectors.sum(axis=0), atol=1e-9)
    assert total.metrics["num-examples"] == [float(count) for count in counts]
    assert total.weight == (counts.sum() if weights == "examples" else len(counts))


def test_equal_updates_have_exactly_that_mean() -> None:
    vector = (0.1, 1 / 3)
    total = aggregation.total(summand((*vector, examples), node) for node, examples in enumerate((7, 11, 13), start=1))
    assert total.vectors["delta"].tolist() == list(vector)


def test_threads_do_not_change_a_bit() -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = [torch.randn(100_003, generator=rng) for _ in range(5)]
    sums = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        sums_of = [PartialSum([n], n + 0.3, {"delta": v.clone()}, {}) for n, v in enumerate(vectors)]
        sums.append(aggregation.total(sums_of).vectors["delta"])
    torch.set_num_threads(1)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_the_inputs_of_a_sum_stay_as_they_are() -> None:
    first, second = summand((1.0, 2.0, 1), 1), summand((3.0, 4.0, 1), 2)
    aggregation.total([first, second])
    assert first.vectors["delta"].tolist() == first.vectors["population.delta"].tolist() == [1.0, 2.0]
    assert second.vectors["delta"].tolist() == [3.0, 4.0]
    assert second.vectors["population.delta"].tolist() == [3.0, 4.0]


def test_a_merged_reply_says_what_single_ones_did() -> None:
    accumulator = aggregation.ShardAccumulator(request(1))
    good, bad = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, torch.nan], dtype=torch.float64)
    assert accumulator.add(reply(1, good, 3))
    assert not accumulator.add(reply(2, bad, 3))
    assert not accumulator.add(Message(Error(2, "tired"), reply_to=request(3)))
    assert accumulator.add(reply(4, 3 * good, 1))
    (merged,) = accumulator.replies()
    got = codec.decode_partial_sum(merged.content)
    assert got is not None
    assert got.nodes == [1, 4]
    assert got.vectors["delta"].tolist() == [1.5, 3.0]
    assert got.metrics["num-examples"] == [3.0, 1.0]
    assert math.isnan(got.metrics["train-loss"][0])
    assert got.bytes == 2 * 7 * 8
    assert got.failures[3] == "failed: tired"
    assert got.failures[2].startswith("sent a non-finite delta")
    assert codec.decode_partial_sum(reply(1, good, 1).content) is None


def test_a_shard_in_which_all_fail_is_one_reply_too() -> None:
    accumulator = aggregation.ShardAccumulator(request(1))
    accumulator.add(Message(Error(2, "tired"), reply_to=request(1)))
    (merged,) = accumulator.replies()
    assert codec.decode_partial_sum(merged.content) == PartialSum(nodes=[], failures={1: "failed: tired"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num-examples": -1.0}, "sent -1.0 as metric num-examples; expected a finite number above 0"),
        ({"num-examples": math.nan}, "sent nan as metric num-examples"),
        ({"num-examples": math.inf}, "sent inf as metric num-examples"),
        ({"steps": 0.0}, "sent 0.0 as metric steps"),
        ({"sent.tau": math.nan}, "sent nan as metric sent.tau; expected a finite number"),
    ],
)
def test_absurd_metrics_are_refused(changes: dict[str, float], message: str) -> None:
    one = reply(1, torch.zeros(2, dtype=torch.float64), 1, **changes)
    assert aggregation.partial_sum(one, spec()).failures[1].startswith(message)


MASK = torch.tensor([0.0, -math.inf, math.nan], dtype=torch.float64)


def with_buffers(buffers: torch.Tensor, node: int = 1) -> Message:
    """A reply with these running statistics."""
    vectors = {name: torch.zeros(2, dtype=torch.float64) for name in ("delta", "mean.mu", "population.c")} | {"buffers": buffers}
    metrics = dict.fromkeys(aggregation.NEEDED, 1.0) | {"sent.tau": 2.0}
    return Message(codec.encode_update(codec.Update(vectors, metrics)), reply_to=masked_request(node))


def masked_request(node: int = 1) -> Message:
    """A request whose running statistics are a mask."""
    flower_private.set_current_run(flower_private.new_run())
    vectors = {"w": torch.zeros(2, dtype=torch.float64), "buffers": MASK}
    masked = AggregationSpec.from_vectors(vectors, EXPECTS, "examples")
    content = codec.encode_broadcast(codec.arrays(vectors), 1, spec=masked)
    return Message(content, dst_node_id=node, message_type="train", group_id="1")


def test_non_finite_buffers_of_the_server_that_no_client_changed_stay_and_are_no_divergence() -> None:
    masked = codec.decode_spec(masked_request().content)
    assert masked is not None
    sums = [aggregation.partial_sum(with_buffers(MASK + torch.tensor([node, 0.0, 0.0]), node), masked) for node in (1, 2)]
    total = aggregation.total(sums)
    assert list(total.nodes) == [1, 2]
    assert torch.equal(total.vectors["buffers"].nan_to_num(9.0, neginf=-8.0), torch.tensor([1.5, -8.0, 9.0], dtype=torch.float64))


@pytest.mark.parametrize("changed", [[math.inf, -math.inf, math.nan], [0.0, math.inf, math.nan], [0.0, math.nan, math.nan]])
def test_buffers_that_become_non_finite_on_a_client_are_divergence(changed: list[float]) -> None:
    masked = codec.decode_spec(masked_request().content)
    assert masked is not None
    found = aggregation.partial_sum(with_buffers(torch.tensor(changed, dtype=torch.float64)), masked)
    assert "non-finite buffers" in found.failures[1]


def test_missing_metrics_are_refused() -> None:
    one = reply(1, torch.zeros(2, dtype=torch.float64), 1)
    del one.content["metrics"]["delta-norm"]  # type: ignore[union-attr]
    assert aggregation.partial_sum(one, spec()).failures == {1: "sent no metric delta-norm"}


def test_without_a_spec_replies_stay_single() -> None:
    plain = Message(RecordDict(), dst_node_id=1, message_type="train")
    accumulator, one = aggregation.ShardAccumulator(plain), Message(RecordDict(), reply_to=plain)
    assert accumulator.add(one)
    assert accumulator.replies() == [one]


@pytest.mark.parametrize(("count", "size"), [(1, 1), (31, 1), (32, 2), (100, 6), (512, 32), (10_000, 32)])
def test_the_size_of_shards_depends_on_the_cohort_alone(count: int, size: int) -> None:
    shards = aggregation.shards(range(count), None)
    assert [n for shard in shards for n in shard] == list(range(count))
    assert {len(shard) for shard in shards[:-1]} <= {size}
    assert len(shards[0]) == size
