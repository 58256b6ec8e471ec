"""Numbers as a person reads them: percents with intervals, counts, bytes and seconds to three digits, lists of values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.summary import Estimate


def percent(estimate: Estimate | None) -> str:
    """A fraction in percent with its interval: `62.31 ± 0.84 %`."""
    return _with_interval(estimate, 100, 2) + " %" if estimate and math.isfinite(estimate.mean) else number(estimate)


def number(estimate: Estimate | None) -> str:
    """An estimate with its interval; `diverged` for NaN, a dash for None."""
    if estimate is None:
        return "–"
    return _with_interval(estimate, 1, 3) if math.isfinite(estimate.mean) else "diverged"


def _with_interval(estimate: Estimate, scale: float, digits: int) -> str:
    interval = "" if estimate.half_width is None else f" ± {scale * estimate.half_width:.{digits}f}"
    return f"{scale * estimate.mean:.{digits}f}{interval}"


def count(value: float) -> str:
    """A number of things to three digits.

    >>> count(950), count(1_250_000)
    ('950', '1.25 M')
    """
    return _scaled(value, ("", "k", "M", "G", "T", "P"))


def size(value: float) -> str:
    """Bytes to three digits, in powers of 1000.

    >>> size(1_234_567)
    '1.23 MB'
    """
    return _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def _scaled(value: float, units: Sequence[str]) -> str:
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    text = str(round(value)) if value == round(value) and not power else _digits(value)
    return f"{text} {units[power]}".strip()


def duration(seconds: float) -> str:
    """Seconds to three digits, in the largest unit that fits.

    >>> duration(3.21), duration(125), duration(7260)
    ('3.21 s', '2.08 min', '2.02 h')
    """
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{_digits(seconds / length)} {unit}"
    return f"{_digits(seconds)} s"


def _digits(value: float) -> str:
    return f"{value:.{max(0, 2 - int(math.log10(max(abs(value), 1))))}f}"


def listed(values: Sequence[object]) -> str:
    """Values as a person lists them.

    >>> listed([1]), listed([1, 2]), listed([1, 2, 3])
    ('1', '1 and 2', '1, 2 and 3')
    """
    return " and ".join(filter(None, [", ".join(str(value) for value in values[:-1]), str(values[-1])]))
