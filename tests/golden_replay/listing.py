"""The golden cases as the documentation lists them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments.documentation.golden import GoldenCase
from tests.conformance import collect
from tests.golden_replay.strategies import preset_of

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_cases(folder: Path = GOLDEN) -> Iterator[GoldenCase]:
    """Every recorded trajectory of a local optimizer or a federated method, in order of file names."""
    for golden in collect([folder / "optimizers", folder / "strategies"]):
        assert golden.case is not None, golden.why
        case, file = golden.case, golden.path.relative_to(folder).as_posix()
        if file.startswith("optimizers"):
            kind, name, length = "optimizers", golden.document["method"], case["steps"]
            tolerance = f"{case['tol']['atol']:g} + {case['tol']['rtol']:g} of the value"
        else:
            kind, name = "methods", preset_of(golden.document["algorithm"], case["hyperparameters"])
            length = len(case["expected"]["rounds"])
            tolerance = f"{case['tolerance']['float64_abs']:g}"
        yield GoldenCase(kind, name, file, golden.id, case["source"], case.get("note", ""), length, tolerance)
