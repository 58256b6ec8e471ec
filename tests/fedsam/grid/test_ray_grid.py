"""How many shards make up a call, and what becomes of calls that are late; the rest is tested in `test_grid`."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from fedsam.grid.ray_grid import Call, RayGrid, Shard
from fedsam.messages import flower_private


@pytest.fixture
def grid() -> RayGrid:
    """Two actors, 17 messages that wait, one a shard."""
    pool: Any = SimpleNamespace(size=2)
    grid = RayGrid(pool, 17, {})
    flower_private.enter(flower_private.new_run())
    grid._waiting.extend(Shard([Message(RecordDict(), dst_node_id=node, message_type="train")], {}) for node in range(1, 18))
    return grid


@pytest.mark.parametrize(
    ("slowest", "many"),
    [({}, 1), ({"evaluate": 1e-3}, 1), ({"train": 30.0}, 1), ({"train": 4e-3}, 5), ({"train": 1e-3}, 9), ({"train": 0.0}, 9)],
)
def test_short_shards_go_together_and_leave_the_others_their_share(grid: RayGrid, slowest: dict[str, float], many: int) -> None:
    grid._slowest = slowest
    assert len(grid._next(math.inf)) == many
    assert len(grid._waiting) == 17 - many


def test_a_shard_that_was_lost_goes_alone(grid: RayGrid) -> None:
    grid._slowest = {"train": 1e-3}
    grid._waiting[0].losses = 1
    assert len(grid._next(math.inf)) == 1
    assert len(grid._next(math.inf)) == 8
    grid._waiting[1].losses = 1
    assert grid._waiting[1] not in grid._next(math.inf)


def test_late_calls_at_one_actor_replace_it_once_and_run_again_in_order(grid: RayGrid) -> None:
    replaced, shards = list[str](), list(grid._waiting)
    grid.pool.replace = replaced.append  # type: ignore[method-assign,assignment]
    for name, first in (("a", 0), ("b", 4), ("a", 2)):
        grid._running[first] = Call(shards[first : first + 2], name, [first])
        for shard in shards[first : first + 2]:
            grid._waiting.remove(shard)
    assert grid._part()
    assert replaced == ["a", "b"]
    assert list(grid._waiting) == [shards[i] for i in (4, 5, 0, 1, 2, 3, *range(6, 17))]
    assert [shard.losses for shard in shards] == [1, 1, 0, 0, 1, 1] + [0] * 11
    assert not grid._running
    assert not grid._part()
