"""A client's state as tensors and plain values, nested in mappings: what a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedsam.messages import codec

KINDS: Mapping[str, type[ConfigRecord] | type[MetricRecord]] = {"config": ConfigRecord, "metrics": MetricRecord}


def to_tree(state: RecordDict) -> dict[str, Any]:
    """Each record by name: its kind (`arrays`, `config` or `metrics`) and its values; vectors are not to be changed."""
    return {name: _record_tree(record) for name, record in state.items()}


def from_tree(tree: Mapping[str, Any]) -> RecordDict:
    """The state that `to_tree` was given."""
    return RecordDict({name: _record(*next(iter(record.items()))) for name, record in tree.items()})


def _record_tree(record: ArrayRecord | ConfigRecord | MetricRecord) -> dict[str, Any]:
    if isinstance(record, ArrayRecord):
        return {"arrays": codec.views(record)}
    return {kind: dict(record) for kind, made in KINDS.items() if isinstance(record, made)}


def _record(kind: str, values: Mapping[str, Any]) -> ArrayRecord | ConfigRecord | MetricRecord:
    return codec.arrays(values) if kind == "arrays" else KINDS[kind](dict(values))
