"""Numbers as text: one notation for progress, plans and reports."""

from __future__ import annotations

import math

import pytest

from fedsam.formatting import count, duration, plural, printable


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.00 s"), (14, "14.0 s"), (59.4, "59.4 s"), (60, "1.00 min"), (3599, "60.0 min"), (3600, "1.00 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(1e30, "1.00e+15 P"), (1e12, "1.00 T"), (math.inf, "inf"), (math.nan, "nan")])
def test_count_of_any_magnitude_is_short(value: float, text: str) -> None:
    assert count(value) == text


def test_duration_of_any_magnitude_is_short() -> None:
    assert (duration(1e30), duration(math.inf)) == ("2.78e+26 h", "inf h")


def test_control_characters_are_visible() -> None:
    hostile = "a\x1b]0;title\x07\x9b2J\r\n\t\u202eb\udc80\x7f"
    assert printable(hostile) == r"a\x1b]0;title\x07\x9b2J\r\n\t\u202eb\udc80\x7f"
    assert printable(hostile, lines=True) == "a\\x1b]0;title\\x07\\x9b2J\\r\n\t\\u202eb\\udc80\\x7f"
    assert printable("αβ 中文 🐛 e\u0301 می\u200cخواهم") == "αβ 中文 🐛 e\u0301 می\u200cخواهم"


def test_none_is_plural() -> None:
    assert plural(0, "round") == "0 rounds"
