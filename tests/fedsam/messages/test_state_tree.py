"""Tests of fedsam.messages.state_tree."""

from __future__ import annotations

import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedsam.messages import client_state, codec
from fedsam.messages.codec import Broadcast
from fedsam.messages.state_tree import from_tree, to_tree


def test_a_state_comes_back_from_its_tree() -> None:
    state = RecordDict(
        {"own": ConfigRecord({"text": "a", "raw": b"\x00", "list": [1, 2]}), "seen": MetricRecord({"n": 1, "losses": [0.5]})}
    )
    client_state.save_correction(state, {"c": torch.arange(3.0)}, Broadcast({}, round=3, accepted=2))
    client_state.save_optimizer(state, {"v": torch.ones(2, dtype=torch.float64), "t": 4})
    again = from_tree(to_tree(state))
    assert {name: type(record) for name, record in again.items()} == {name: type(record) for name, record in state.items()}
    assert again["own"] == state["own"]
    assert again["seen"] == state["seen"]
    assert again["pending-round"] == state["pending-round"]
    assert torch.equal(codec.views(again["pending"])["c"], torch.arange(3.0))  # type: ignore[arg-type]
    restored = client_state.load_optimizer(again, torch.device("cpu"))
    assert restored is not None
    assert (restored["t"], restored["v"].dtype) == (4, torch.float64)
