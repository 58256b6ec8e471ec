"""What runs cost, by name: what adds up over rounds and can be an axis, and the rates and peaks of a whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from experiments.analysis.format import count, duration, size
from fedsam.results.rows import Row, Run


@dataclass(frozen=True)
class Cost:
    """A quantity that a run has spent.

    Attributes:
        of: Of a cumulative row; None where it was not measured.
        show: For a person.
        unit: `s`, `B`, `J`, `FLOP` or none.
    """

    title: str
    of: Callable[[Row], float | None]
    show: Callable[[float], str] = count
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
EQUAL = ("rounds", "gradient_evaluations", "client_seconds", "bytes", "simulated_seconds")  # methods are compared where these are equal
TARGET = ("rounds", "gradient_evaluations", "client_seconds", "wall_seconds", "bytes", "simulated_seconds")  # spent until a target


def spent(run: Run, end: Row) -> dict[str, float]:
    """What a run cost by the names of `COSTS`, its start-up, rates and peaks; what was not measured is left out.

    Args:
        end: The run's last row, cumulative.
    """
    totals = {name: cost.of(end) for name, cost in COSTS.items()}
    whole = {
        "startup": run.startup,
        "rounds_per_second": end.round / end.wall_seconds if end.wall_seconds else None,
        "examples_per_second": end.examples / end.wall_seconds if end.wall_seconds else None,
        "peak_rss": end.peak_rss or None,
        "peak_device_memory": end.peak_device_memory,
    }
    return {name: float(value) for name, value in (totals | whole).items() if value is not None}
