"""The actor's share of a GPU; the rest of it is tested through the grids."""

from __future__ import annotations

import pytest
import torch
from flwr.clientapp import ClientApp

from fedsam.actor import ClientActor
from fedsam.pool import ActorPool
from fedsam.ray_session import import_ray


@pytest.mark.parametrize(
    ("gpus", "memory", "expected"), [(0.0, None, None), (0.0, 0.5, None), (0.25, None, 0.25), (0.25, 0.2, 0.2), (2.0, None, 1.0)]
)
def test_an_actor_may_use_its_share_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, gpus: float, memory: float | None, expected: float | None
) -> None:
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    import_ray(private=True)  # as other tests of this process need it
    pool = ActorPool(ClientApp, actors=0, gpus=gpus, memory=memory)
    ClientActor(ClientApp, 1, {}, pool.memory)
    assert limits == ([] if expected is None else [expected])
