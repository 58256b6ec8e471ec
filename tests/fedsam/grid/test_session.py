"""What interrupts Ray's start; real starts and ends are tested through the commands."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import wait

import pytest

from fedsam.grid import session
from fedsam.grid.session import import_ray
from tests.support.processes import HANG


def test_the_alarm_that_ray_sets_on_a_signal_does_not_cut_the_end_short(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, awaited, off, ended = import_ray(private=True), threading.Event(), threading.Event(), list[str]()

    def start(**_: object) -> None:
        awaited.wait(HANG)
        os.kill(os.getpid(), signal.SIGINT)
        off.wait(HANG)

    def look(*what: object) -> object:
        awaited.set()
        return wait(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(session, "wait", look)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("Ray"))
    monkeypatch.setattr(signal, "alarm", lambda seconds: seconds or off.set())
    with pytest.raises(KeyboardInterrupt), session._running_ray("local"):
        pass
    assert off.is_set()
    assert ended == ["Ray"]
