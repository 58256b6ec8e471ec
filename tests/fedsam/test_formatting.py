"""Numbers as text: one notation for progress, plans and reports."""

from __future__ import annotations

import pytest

from fedsam.formatting import duration, plural


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.00 s"), (14, "14.0 s"), (59.4, "59.4 s"), (60, "1.00 min"), (3599, "60.0 min"), (3600, "1.00 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_none_is_plural() -> None:
    assert plural(0, "round") == "0 rounds"
