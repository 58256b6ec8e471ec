"""What the user hears of a Flower app while it runs."""

from __future__ import annotations

import io

import pytest
from flwr.app import Error, Message, RecordDict
from rich.console import Console

from experiments.callbacks.app_progress import MAX_FAILURES, QUIET_SECONDS, AppProgress
from fedsam.messages import flower_private


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(now: list[float], out: io.StringIO) -> AppProgress:
    return AppProgress(Console(file=out, width=40), lambda: now[0])


def sent(progress: AppProgress, nodes: range, group: str = "3") -> list[Message]:
    """Messages to these nodes, of which the progress was told."""
    flower_private.set_current_run(flower_private.new_run())
    messages = [Message(RecordDict(), dst_node_id=node, message_type="train", group_id=group) for node in nodes]
    for number, message in enumerate(messages):
        flower_private.set_message_id(message, f"{group}.{number}")
    progress.sent(messages)
    return messages


def failed(message: Message, reason: str = "ValueError: [tired] :bug:\nTraceback") -> Message:
    return Message(Error(2, reason), reply_to=message)


def test_an_exchange_has_a_line_and_so_has_each_of_its_first_failures(progress: AppProgress, now: list[float], out: io.StringIO) -> None:
    messages = sent(progress, range(1, 9))
    progress.received([Message(RecordDict(), reply_to=messages[0])])
    assert out.getvalue() == ""
    now[0] = 4.0
    progress.received([failed(message) for message in messages[1:]])
    lines = out.getvalue().splitlines()
    assert lines[0] == "round 3, train: node 2 failed: ValueError: [tired] :bug:"
    assert lines[MAX_FAILURES:] == ["round 3, train: 8 of 8 messages answered, 7 failures, 4.00 s"]


def test_a_late_reply_belongs_to_no_later_exchange(progress: AppProgress, out: io.StringIO) -> None:
    late = sent(progress, range(1, 2), "1")
    messages = sent(progress, range(1, 3), "")
    progress.received([Message(RecordDict(), reply_to=message) for message in (*late, messages[0])])
    assert out.getvalue() == ""
    progress.received([Message(RecordDict(), reply_to=messages[1])])
    assert out.getvalue() == "train: 2 of 2 messages answered, 0.00 s\n"


def test_who_is_silent_for_long_says_what_is_waited_for(progress: AppProgress, now: list[float], out: io.StringIO) -> None:
    progress.remind()
    now[0] = QUIET_SECONDS
    progress.remind()
    progress.remind()
    messages = sent(progress, range(1, 3))
    progress.received([Message(RecordDict(), reply_to=messages[0])])
    now[0] *= 2
    progress.remind()
    progress.received([Message(RecordDict(), reply_to=messages[1])])
    now[0] += QUIET_SECONDS
    progress.remind()
    assert out.getvalue().splitlines() == [
        "the server has sent nothing for 10.0 s",
        "round 3, train: 1 of 2 messages answered, 10.0 s",
        "round 3, train: 2 of 2 messages answered, 10.0 s",
        "the server has sent nothing for 20.0 s",
    ]
