"""Flower's private parts: all that is used of flwr beyond its public interface, so that a new version breaks one module only."""

from __future__ import annotations

from flwr.app import Message, Metadata, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

CLIENT_APP_RAISED = 2  # as `flwr.common.constant.ErrorCode`
REPLY_UNAVAILABLE = 4

__all__ = ["CLIENT_APP_RAISED", "REPLY_UNAVAILABLE", "Run", "enter", "new_run", "number", "received"]


def new_run() -> Run:
    """A run that nothing is known of."""
    return Run.create_empty(1)


def enter(run: Run) -> None:
    """Make messages from now on in the name of the run's server: its node id is 0, which no client has."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run.run_id, 0, 0


def number(message: Message, id: str) -> None:
    """Give a message its id, in place."""
    message.metadata.__dict__["_message_id"] = id


def received(metadata: Metadata, content: RecordDict) -> Message:
    """A message as it arrives."""
    return Message(metadata=metadata, content=content)  # type: ignore[call-overload,no-any-return]
