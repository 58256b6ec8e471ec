"""Numbers, lists and the text of others as text: counts, bytes and seconds to three significant digits, plurals, enumerations."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

# What moves the cursor, breaks a line, reverses the reading direction, or is half a character.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def count(value: float) -> str:
    """A number of things to three digits, with a decimal prefix.

    >>> count(950), count(1_250_000)
    ('950', '1.25 M')
    """
    return _scaled(value, ("", "k", "M", "G", "T", "P"))


def size(value: float) -> str:
    """A number of bytes to three digits, in powers of 1000.

    >>> size(1_234_567)
    '1.23 MB'
    """
    return _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def duration(seconds: float) -> str:
    """Seconds to three digits, in the largest unit that fits.

    >>> duration(3.21), duration(125), duration(7260)
    ('3.21 s', '2.08 min', '2.02 h')
    """
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{_digits(seconds / length)} {unit}"
    return f"{_digits(seconds)} s"


def plural(number: int, noun: str) -> str:
    """A number with its noun, whose plural ends in `s`.

    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(values: Sequence[object]) -> str:
    """Values in a sentence, with `and` before the last.

    >>> listed([1]), listed([1, 2]), listed([1, 2, 3])
    ('1', '1 and 2', '1, 2 and 3')
    """
    return " and ".join(filter(None, [", ".join(str(value) for value in values[:-1]), str(values[-1])]))


def printable(text: str, *, lines: bool = False) -> str:
    r"""Text of others with its control characters as Python escapes them.

    Args:
        lines: Keep line breaks and tabs.

    >>> printable("a\x1b[31m\nb")
    'a\\x1b[31m\\nb'
    """
    return CONTROL.sub(lambda found: found[0] if lines and found[0] in "\n\t" else repr(found[0])[1:-1], text)


def literal(text: str) -> Text:
    """Text of others for rich: neither markup nor emoji codes count, and no control character but line breaks and tabs is left."""
    from rich.text import Text

    return Text(printable(text, lines=True))


def no_formula(text: str) -> str:
    """A text of CSV that no spreadsheet takes for a formula: one that begins like a formula has an apostrophe before it.

    >>> no_formula("=cmd|' /C calc'!A0"), no_formula("sgd")
    ("'=cmd|' /C calc'!A0", 'sgd')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _scaled(value: float, units: Sequence[str]) -> str:
    power = 0
    while 999.5 <= abs(value) < math.inf and power < len(units) - 1:
        value, power = value / 1000, power + 1
    text = str(round(value)) if math.isfinite(value) and value == round(value) and not power else _digits(value)
    return f"{text} {units[power]}".strip()


def _digits(value: float) -> str:
    if not abs(value) < 1e6:  # also inf and NaN
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - int(math.log10(max(abs(value), 1))))}f}"
