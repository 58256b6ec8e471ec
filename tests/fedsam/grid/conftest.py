"""Pools of actors that the tests of a module share, whose actors load another app where a test has one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedsam.grid.pool import ActorPool
from tests.support.shared_ray import SharedRay


@pytest.fixture(scope="module")
def pool(shared_ray: SharedRay) -> Iterator[ActorPool]:
    with shared_ray.pool(3) as pool:
        yield pool


@pytest.fixture(scope="module")
def single(shared_ray: SharedRay) -> Iterator[ActorPool]:
    with shared_ray.pool(1) as pool:
        yield pool
