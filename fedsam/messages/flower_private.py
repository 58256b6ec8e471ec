"""Flower's private parts: all that is used of flwr beyond its public interface, so that a new version breaks one module only."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

__all__ = [
    "CLIENT_APP_RAISED",
    "MESSAGE_UNAVAILABLE",
    "REPLY_UNAVAILABLE",
    "NodeInfo",
    "Run",
    "average_replies",
    "fill_record",
    "make_content",
    "make_merge_config",
    "make_message",
    "merge_weight",
    "message_unavailable",
    "new_run",
    "online_node",
    "random_run",
    "set_current_run",
    "set_message_id",
]

CLIENT_APP_RAISED = 2  # as `flwr.common.constant.ErrorCode`
MESSAGE_UNAVAILABLE = 3
REPLY_UNAVAILABLE = 4
MERGE_BY = "fedsam.merge-by"  # in a message's ConfigRecord `config`


def new_run() -> Run:
    """A run of which only the id, 1, is known."""
    return Run.create_empty(1)


def random_run() -> Run:
    """A run with a random id, as Flower's runtime gives one to each run of an app."""
    return Run.create_empty(secrets.randbelow(2**63 - 1) + 1)


def online_node(node: int) -> NodeInfo:
    """What is known of a node that is always there."""
    return NodeInfo(node_id=node, status="online")


def set_current_run(run: Run) -> None:
    """Set the run in which this process makes messages, as its server: node id 0, which no client has."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run.run_id, 0, 0


def set_message_id(message: Message, id: str) -> None:
    """Set a message's id, in place."""
    message.metadata.__dict__["_message_id"] = id


def fill_record(record: RecordDict | ArrayRecord | MetricRecord, values: Mapping[str, Any]) -> None:
    """Put values of the record's own kind into it, without the check of each, which takes several times as long."""
    record.__dict__["_data"].update(values)


def make_content(records: Mapping[str, ArrayRecord | ConfigRecord | MetricRecord]) -> RecordDict:
    """The records as a message's content, without a check, as `fill_record`."""
    content = RecordDict()
    fill_record(content, records)
    return content


def make_message(metadata: Metadata, content: RecordDict) -> Message:
    """A message with the metadata of one that was sent."""
    return Message(metadata=metadata, content=content)  # type: ignore[call-overload,no-any-return]


def message_unavailable(message_id: str, run_id: int) -> Message:
    """The error reply to a message that nobody knows, or whose reply was taken already, or came too late."""
    metadata = Metadata(
        run_id=run_id,
        message_id=f"{message_id}-unavailable",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id=message_id,
        group_id="",
        message_type="system",
        created_at=time.time(),
        ttl=0,
    )
    reason = "no such message, or its reply was pulled before, or its time to live is over"
    return Message(metadata=metadata, error=Error(MESSAGE_UNAVAILABLE, reason))  # type: ignore[call-overload,no-any-return]


def make_merge_config(strategy: Strategy) -> ConfigRecord:
    """The `train_config` for `strategy.start` that has a grid average the replies of each shard, for Flower's weighted means.

    The strategy then sees fewer replies, of larger weight; its result differs by rounding.

    Raises:
        ValueError: The strategy is not known to be a weighted mean of arrays and metrics, and to be nothing else.
    """
    from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
    from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

    means = (FedAvg, FedProx, FedAvgM, FedAdagrad, FedAdam, FedYogi)
    if type(strategy) not in means or strategy.train_metrics_aggr_fn is not aggregate_metricrecords:  # type: ignore[attr-defined]
        names = ", ".join(kind.__name__ for kind in means)
        raise ValueError(f"{type(strategy).__name__}: replies can be merged for {names} with default metrics alone")
    return ConfigRecord({MERGE_BY: strategy.weighted_by_key})  # type: ignore[attr-defined]


def merge_weight(content: RecordDict) -> str | None:
    """The metric that weights a reply, in the content of a message with `make_merge_config`; None in others."""
    config = content.get("config")
    weight = config.get(MERGE_BY) if isinstance(config, ConfigRecord) else None
    return None if weight is None else str(weight)


def average_replies(replies: Sequence[Message], by: str) -> list[Message]:
    """One reply in place of those without error, its weight the sum of theirs; all of them where Flower would not average them.

    Args:
        by: Name of the metric that is a reply's weight.
    """
    from flwr.serverapp.strategy import strategy_utils

    usable = [reply for reply in replies if not reply.has_error()]
    contents = [reply.content for reply in usable]
    try:
        strategy_utils.validate_message_reply_consistency(contents, by, check_arrayrecord=True)
    except InconsistentMessageReplies:
        return list(replies)
    if len(usable) < 2:
        return list(replies)
    (arrays,), (metrics,) = ([key for key, r in contents[0].items() if isinstance(r, kind)] for kind in (ArrayRecord, MetricRecord))
    weights: list[Any] = [content[metrics][by] for content in contents]
    averaged = strategy_utils.aggregate_metricrecords(contents, by)
    averaged[by] = sum(weights)
    merged = RecordDict({arrays: strategy_utils.aggregate_arrayrecords(contents, by), metrics: averaged})
    return [make_message(usable[0].metadata, merged), *(reply for reply in replies if reply.has_error())]
