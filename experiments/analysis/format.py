"""Numbers as a person reads them: percents with intervals, measures, counts, bytes and seconds to three digits, lists of values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.analysis.statistics import Estimate


def percent(estimate: Estimate | None) -> str:
    """A fraction in percent with its interval: `62.31 ± 0.84 %`."""
    return _with_interval(estimate, 100, 2) + " %" if estimate and math.isfinite(estimate.mean) else number(estimate)


def number(estimate: Estimate | None) -> str:
    """An estimate with its interval; `diverged` for NaN, a dash for None."""
    if estimate is None:
        return "–"
    return _with_interval(estimate, 1, 3) if math.isfinite(estimate.mean) else "diverged"


def points(estimate: Estimate) -> str:
    """A difference of fractions in percentage points, with its sign.

    >>> points(Estimate(0.0123, 0.002)), points(Estimate(-0.01, None))
    ('+1.23 ± 0.20', '−1.00')
    """
    return ("−" if estimate.mean < 0 else "+") + _with_interval(Estimate(abs(estimate.mean), estimate.half_width), 100, 2)


def measured(estimate: Estimate) -> str:
    """A measure of any size, its mean to three digits.

    >>> measured(Estimate(123.4, 5.67)), measured(Estimate(0.01234, 0.001)), measured(Estimate(1234567.0, None))
    ('123 ± 6', '0.0123 ± 0.0010', '1.23e+06')
    """
    if not math.isfinite(estimate.mean):
        return number(estimate)
    power = math.floor(math.log10(abs(estimate.mean))) if estimate.mean else 0
    if not -5 <= power <= 5:
        return f"{estimate.mean:.2e}" + ("" if estimate.half_width is None else f" ± {estimate.half_width:.0e}")
    return _with_interval(estimate, 1, max(0, 2 - power))


def chance(p: float) -> str:
    """A p-value.

    >>> chance(0.25), chance(0.00012)
    ('0.25', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.2g}"


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
