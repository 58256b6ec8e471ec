"""The costs of a run by name: quantities that add up over rounds, and the rates and peaks of the whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedsam.formatting import count, duration, size
from fedsam.results.rows import Row, Run


@dataclass(frozen=True)
class Cost:
    """A cost that adds up over rounds.

    Attributes:
        title: Its name in tables and on axes.
        from_row: Reads it from a row of cumulative costs; None where it was not measured.
        format: Turns a value into text with its unit.
        unit: `s`, `B`, `J`, `FLOP` or empty.
    """

    title: str
    from_row: Callable[[Row], float | None]
    format: Callable[[float], str] = count
    unit: str = ""


COSTS: Mapping[str, Cost] = {
    "rounds": Cost("rounds", lambda row: row.round),
    "gradient_evaluations": Cost("gradient evaluations", lambda row: row.gradient_evaluations),
    "forward_evaluations": Cost("forward evaluations", lambda row: row.forward_evaluations),
    "flops": Cost("FLOPs", lambda row: row.flops or None, unit="FLOP"),
    "bytes_down": Cost("bytes down", lambda row: row.bytes_down, size, "B"),
    "bytes_up": Cost("bytes up", lambda row: row.bytes_up, size, "B"),
    "bytes": Cost("bytes", lambda row: row.bytes_down + row.bytes_up, size, "B"),
    "client_seconds": Cost("client time", lambda row: row.client_seconds, duration, "s"),
    "wall_seconds": Cost("wall time", lambda row: row.wall_seconds, duration, "s"),
    "evaluate_seconds": Cost("evaluation time", lambda row: row.evaluate_seconds, duration, "s"),
    "simulated_seconds": Cost("simulated time", lambda row: row.simulated_seconds, duration, "s"),
    "energy": Cost("energy", lambda row: row.energy, count, "J"),
}
# Methods are compared at equal values of these.
EQUAL_COSTS = ("rounds", "gradient_evaluations", "client_seconds", "bytes", "simulated_seconds")
# These are reported until a target accuracy is reached.
TARGET_COSTS = ("rounds", "gradient_evaluations", "client_seconds", "wall_seconds", "bytes", "simulated_seconds")


def run_cost(run: Run, last: Row) -> dict[str, float]:
    """The costs of a run by the names of `COSTS`, its start-up time, rates and peaks, without those that were not measured.

    Args:
        last: The run's last row, with cumulative costs.
    """
    totals = {name: cost.from_row(last) for name, cost in COSTS.items()}
    rates_and_peaks = {
        "startup": run.startup,
        "rounds_per_second": last.round / last.wall_seconds if last.wall_seconds else None,
        "examples_per_second": last.examples / last.wall_seconds if last.wall_seconds else None,
        "peak_rss": last.peak_rss or None,
        "peak_device_memory": last.peak_device_memory,
    }
    return {name: float(value) for name, value in (totals | rates_and_peaks).items() if value is not None}
