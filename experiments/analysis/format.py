"""Estimates as text: percents, percentage points and measures, each with its confidence interval, and p-values."""

from __future__ import annotations

import math

from experiments.analysis.statistics import Estimate


def percent(estimate: Estimate | None) -> str:
    """A fraction in percent with its interval: `62.31 ± 0.84 %`; `diverged` for NaN, a dash for None."""
    return _with_interval(estimate, 100, 2) + " %" if estimate and math.isfinite(estimate.mean) else number(estimate)


def number(estimate: Estimate | None) -> str:
    """An estimate with its interval, to three decimals or in scientific notation; `diverged` for NaN, a dash for None.

    >>> number(Estimate(1.2345, 0.01)), number(Estimate(3e26, 2e25)), number(Estimate(0.00001, None))
    ('1.234 ± 0.010', '3.00e+26 ± 2e+25', '1.00e-05')
    """
    if estimate is None:
        return "–"
    if not math.isfinite(estimate.mean):
        return "diverged"
    largest = max(abs(estimate.mean), estimate.half_width or 0.0)
    return _with_interval(estimate, 1, 3) if estimate.mean == 0 or 5e-4 <= largest < 1e5 else _scientific(estimate)


def points(estimate: Estimate) -> str:
    """A difference of fractions in percentage points, with its sign.

    >>> points(Estimate(0.0123, 0.002)), points(Estimate(-0.01, None))
    ('+1.23 ± 0.20', '−1.00')
    """
    return ("−" if estimate.mean < 0 else "+") + _with_interval(Estimate(abs(estimate.mean), estimate.half_width), 100, 2)


def measure(estimate: Estimate) -> str:
    """A measure of any magnitude, its mean to three significant digits.

    >>> measure(Estimate(123.4, 5.67)), measure(Estimate(0.01234, 0.001)), measure(Estimate(1234567.0, None))
    ('123 ± 6', '0.0123 ± 0.0010', '1.23e+06')
    """
    if not math.isfinite(estimate.mean):
        return number(estimate)
    power = math.floor(math.log10(abs(estimate.mean))) if estimate.mean else 0
    if not -5 <= power <= 5:
        return _scientific(estimate)
    return _with_interval(estimate, 1, max(0, 2 - power))


def p_value(p: float) -> str:
    """A p-value.

    >>> p_value(0.25), p_value(0.00012)
    ('0.25', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def _scientific(estimate: Estimate) -> str:
    return f"{estimate.mean:.2e}" + ("" if estimate.half_width is None else f" ± {estimate.half_width:.0e}")


def _with_interval(estimate: Estimate, scale: float, digits: int) -> str:
    interval = "" if estimate.half_width is None else f" ± {scale * estimate.half_width:.{digits}f}"
    return f"{scale * estimate.mean:.{digits}f}{interval}"
