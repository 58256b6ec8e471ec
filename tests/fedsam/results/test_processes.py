"""Whether the process of a run is alive, here and on another machine."""

from __future__ import annotations

import os
import time

import pytest

from fedsam.results import processes as module

OWN, NOBODY = 0, 2**22 + 1  # this process, and a number that no process has


@pytest.mark.parametrize(
    ("host", "pid", "born", "gone"),
    [
        ("here", OWN, "now", False),
        ("here", OWN, "another", True),  # the number was given again
        ("elsewhere", NOBODY, "now", False),  # nothing was heard of it
        ("here", NOBODY, "", True),  # no such process, and no /proc when it was written
        ("here", OWN, "", False),
    ],
)
def test_only_a_process_of_this_host_is_known_to_be_gone(
    monkeypatch: pytest.MonkeyPatch, host: str, pid: int, born: str, gone: bool
) -> None:
    monkeypatch.setattr("platform.node", lambda: "here")
    monkeypatch.setattr(module, "process_start_time", lambda _: "now")
    assert module.process_ended(host, pid or os.getpid(), born) is gone


@pytest.mark.parametrize(
    ("silence", "gone"), [(0, False), (module.SILENCE_SECONDS / 2, False), (2 * module.SILENCE_SECONDS, True), (-3600, False)]
)
def test_a_process_elsewhere_is_gone_when_nothing_was_heard_of_it_for_long(silence: float, gone: bool) -> None:
    assert module.process_ended("elsewhere", NOBODY, "now", time.time() - silence) is gone


def test_silence_says_nothing_of_a_process_that_lives_here() -> None:
    assert not module.process_ended(os.uname().nodename, os.getpid(), module.process_start_time(os.getpid()), 0.0)
