"""My components keep the contracts of their kinds, and a run with them learns something. Run with: pytest."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import Experiment, contracts, run

COMPONENTS = ["mine:small_cnn", "mine:HalfSAM", "mine:ClippedMomentum", "mine:shapes"]
CHECKS = [(name, check) for name in COMPONENTS for check in contracts.checks(contracts.find(name)) if not check.starts_ray]


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=[f"{name}: {check.title}" for name, check in CHECKS])
def test_contract(name: str, check: contracts.Check) -> None:
    """Each check that `fedsam check` makes, the one that starts Ray aside."""
    check.run(contracts.find(name))


def test_two_rounds(tmp_path: Path) -> None:
    """Better than chance, which is a third."""
    result = run(
        Experiment.model_validate(
            {
                "rounds": 2,
                "runs_dir": tmp_path,
                "model": "mine:small_cnn",
                "data": {"dataset": "mine:shapes", "clients": 4, "partition": "iid"},
                "client": {"optimizer": {"name": "mine:HalfSAM", "lr": 0.1}, "batch_size": 10},
                "server": {"strategy": "mine:ClippedMomentum", "participation": 4},
                "compute": {"grid": "inline"},
            }
        )
    )
    assert result.accuracy > 1 / 3
