"""What interrupts Ray's start; real starts and ends are tested through the commands."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from fedsam import ray_session
from fedsam.ray_session import import_ray


def test_the_alarm_that_ray_sets_on_a_signal_does_not_cut_the_end_short(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, rung, ended = import_ray(private=True), list[int](), list[str]()
    monkeypatch.setattr(ray, "init", lambda **_: time.sleep(1.5))
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("Ray"))
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    signal.alarm(1)
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        with pytest.raises(KeyboardInterrupt), ray_session._started("local"):
            pass
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (rung, ended) == ([], ["Ray"])
