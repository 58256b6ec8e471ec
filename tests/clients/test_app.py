"""The ClientApp's shell: what it does when a GPU's memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from flwr.app import Message, RecordDict

from clients.app import within_memory
from fedsam import flower
from tests.strategies.test_identities import stage


def failing(times: int) -> tuple[Callable[[], Message], list[int]]:
    """A task that runs out of memory so many times, and its calls."""
    calls: list[int] = []
    flower.enter(flower.new_run())

    def task() -> Message:
        calls.append(len(calls))
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return Message(RecordDict(), dst_node_id=1, message_type="train")

    return task, calls


@pytest.mark.parametrize("times", [0, 1])
def test_a_client_that_runs_out_of_memory_once_is_tried_again(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    task, calls = failing(times)
    assert within_memory(stage("fedavg").place, task).metadata.dst_node_id == 1
    assert len(calls) == times + 1
    assert len(emptied) == times


def test_a_client_that_does_not_fit_is_an_error_that_says_what_to_change() -> None:
    task, calls = failing(2)
    with pytest.raises(MemoryError, match=r"client.batch_size 50, measure.batch_size 500 and model 'cnn' .* 2.00 GiB"):
        within_memory(stage("fedavg").place, task)
    assert len(calls) == 2
