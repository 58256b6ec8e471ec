"""How a message is served: by a ClientApp as Flower calls one, or past the messages where that makes no difference to what comes of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from fedsam.messages.aggregation import ShardAccumulator, failure, update_sum
from fedsam.messages.codec import AggregationSpec, PartialSum, Update
from fedsam.messages.flower_private import CLIENT_APP_RAISED, make_content, make_message, set_message_id

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class ClientTask:
    """One message for one client, as it travels to an actor.

    Attributes:
        records: The message's content; large records are references into the object store, shared by the messages of a round.
        state: Reference to the client's state, or the state itself; None where it has none.
    """

    metadata: Metadata
    records: Mapping[str, Any]
    node_config: Mapping[str, Any]
    run_config: Mapping[str, Any]
    state: Any = None


@runtime_checkable
class UpdatingClientApp(Protocol):
    """A ClientApp that can train without a message: for updates that are added up in the same process and cross no network."""

    def train_update(self, content: RecordDict, context: Context) -> Update:
        """What the reply to a `train` message with this content, which is not to be changed, would hold; `context.state` changes."""


class CrowdedError(MemoryError):
    """The memory of a GPU that several actors share ran out."""


class ShardServer:
    """Runs the messages of a shard through an app, and keeps or adds up what comes of them.

    Args:
        first: The shard's first message.
        single: Keep replies single, whatever the messages ask for.
        shared: Whether others share the GPU.

    Attributes:
        direct: Whether clients train without messages.
    """

    def __init__(self, app: ClientApp, first: Message, *, single: bool = False, shared: bool = False) -> None:
        self._app, self._shared = app, shared
        self._accumulator = ShardAccumulator(first, single=single)
        self.direct = self._accumulator.spec is not None and isinstance(app, UpdatingClientApp)

    def serve(self, task: ClientTask, content: RecordDict, state: RecordDict) -> tuple[bool, RecordDict]:
        """Whether the client's reply can be used, and its new state. Raises as `serve`."""
        reply: Message | PartialSum
        if self.direct:
            reply, state = _updated(self._app, task, content, state, self._accumulator.spec, shared=self._shared)
        else:
            reply, state = serve(self._app, task, content, state, shared=self._shared)
        return self._accumulator.add(reply), state

    def replies(self) -> list[Message]:
        """The replies, or one message in their place."""
        return self._accumulator.replies()


def serve(app: ClientApp, task: ClientTask, content: RecordDict, state: RecordDict, *, shared: bool = False) -> tuple[Message, RecordDict]:
    """Run one message through the app; an exception becomes an error reply and leaves the client's state as it was.

    If the GPU's memory runs out it is tried once more, with memory that is merely reserved given back.

    Raises:
        CrowdedError: That was not enough, and the GPU is `shared` with other actors.
    """

    def attempt() -> tuple[Message, RecordDict]:
        context = _context(task, state)
        reply = app(make_message(task.metadata, _copied(content)), context)
        if not isinstance(reply, Message) or reply.metadata.reply_to_message_id != task.metadata.message_id:
            raise TypeError(f"the ClientApp gave a {type(reply).__name__} that is no reply to its message")
        set_message_id(reply, f"{task.metadata.message_id}-reply")
        return reply, context.state

    def failed(reason: str) -> tuple[Message, RecordDict]:
        return Message(Error(CLIENT_APP_RAISED, reason), reply_to=make_message(task.metadata, RecordDict())), state

    return _guarded(attempt, failed, shared)


def _updated(
    app: Any, task: ClientTask, content: RecordDict, state: RecordDict, spec: AggregationSpec | None, *, shared: bool
) -> tuple[PartialSum, RecordDict]:
    """As `serve` of an `UpdatingClientApp`, and the sum of its reply."""
    assert spec is not None
    node = task.metadata.dst_node_id

    def attempt() -> tuple[PartialSum, RecordDict]:
        context = _context(task, state)
        return update_sum(node, app.train_update(content, context), spec), context.state

    return _guarded(attempt, lambda reason: (failure(node, reason), state), shared)


def _guarded(attempt: Callable[[], Reply], failed: Callable[[str], Reply], shared: bool) -> Reply:
    """What an attempt gives, or what `failed` makes of the reason why not. Raises as `serve`."""
    import torch

    def caught() -> Reply:
        try:
            return attempt()
        except torch.OutOfMemoryError:
            raise
        except (Exception, SystemExit) as error:  # whatever a client raises must name the client, not end the process that others share
            return failed(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")

    with suppress(torch.OutOfMemoryError):
        return caught()
    torch.cuda.empty_cache()  # here, where no traceback holds the tensors of the first attempt
    try:
        return caught()
    except torch.OutOfMemoryError as error:
        if shared:
            raise CrowdedError from None
        return failed(f"the GPU's memory is too small for one client alone: lower the batch size, or take a smaller model ({error})")


def _context(task: ClientTask, state: RecordDict) -> Context:
    return Context(
        run_id=task.metadata.run_id,
        node_id=task.metadata.dst_node_id,
        node_config=dict(task.node_config),
        state=_copied(state),
        run_config=dict(task.run_config),
    )


def _copied(content: RecordDict) -> RecordDict:
    """A copy whose records an app may change without others seeing it; arrays are shared, they cannot change."""
    return make_content({key: record.copy() for key, record in content.items()})
