"""What a client keeps from round to round: the only reader and writer of the records in `context.state`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedsam.messages.codec import Broadcast, Vectors, WireError, arrays, record, tensors


def load_correction(state: RecordDict, accepted: int | None, device: torch.device) -> dict[str, Tensor]:
    """The correction's vectors that count: what the last round left pending does so only if the server accepted that round's update."""
    pending, round = record(state, "pending", ArrayRecord), record(state, "pending-round", ConfigRecord)
    if pending is not None and round is not None:
        if int(str(round["round"])) == accepted:
            state["correction"] = pending
        del state["pending"], state["pending-round"]
    found = record(state, "correction", ArrayRecord)
    return tensors(found, device) if found else {}


def save_correction(state: RecordDict, vectors: Vectors, broadcast: Broadcast) -> None:
    """Keep the correction's vectors, where there are any; they are pending where the server may refuse the round's update."""
    if not vectors:
        return
    if broadcast.accepted is None:
        state["correction"] = arrays(vectors)
    else:
        state["pending"], state["pending-round"] = arrays(vectors), ConfigRecord({"round": broadcast.round})


def load_optimizer(state: RecordDict, device: torch.device) -> dict[str, Any] | None:
    """The optimizer's state of the client's last round; None where it was not kept."""
    vectors, config = record(state, "optimizer", ArrayRecord), record(state, "optimizer-state", ConfigRecord)
    return None if vectors is None or config is None else decode_state(vectors, config, device)


def save_optimizer(state: RecordDict, optimizer_state: Mapping[str, Any]) -> None:
    """Keep the optimizer's state."""
    state["optimizer"], state["optimizer-state"] = encode_state(optimizer_state)


def encode_state(state: Mapping[str, Any]) -> tuple[ArrayRecord, ConfigRecord]:
    """A local optimizer's state as records: tensors by number, everything else (numbers, texts, lists of these) as one JSON text.

    Raises:
        WireError: The state holds something else.
    """
    held: dict[str, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            held[str(len(held))] = value
            return {"tensor": str(len(held) - 1)}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise WireError(f"an optimizer's state holds tensors, numbers, texts and lists of these, not {type(value).__name__}")

    text = json.dumps({name: plain(value) for name, value in state.items()})
    return arrays(held), ConfigRecord({"state": text})


def decode_state(record: ArrayRecord, config: ConfigRecord, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The state that `encode_state` made records of; tuples come back as lists."""
    held = tensors(record, device)

    def rich(value: Any) -> Any:
        if isinstance(value, dict):
            return held[value["tensor"]]
        return [rich(item) for item in value] if isinstance(value, list) else value

    return {name: rich(value) for name, value in json.loads(str(config["state"])).items()}
