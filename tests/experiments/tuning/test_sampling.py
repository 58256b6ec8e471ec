"""What a study tries, without making any run."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.tuning.sampling import Sampler
from experiments.tuning.settings import StudyPlan, expand_tuned

LR, EPOCHS, BATCH = "client.optimizer.lr", "client.epochs", "client.batch_size"
SPACE = {LR: {"low": 0.001, "high": 1.0, "log": True}, EPOCHS: {"low": 1, "high": 9, "log": True}, BATCH: [16, 32]}


def plan(sampler: str, seed: int = 0) -> StudyPlan:
    tune = {"trials": 14, "sampler": sampler, "seed": seed, "space": SPACE}
    _, (study,) = expand_tuned({"data": {"dataset": "digits", "validation": 0.2}, "tune": tune})
    return study


def tried(study: StudyPlan) -> list[dict[str, Any]]:
    """All suggestions, where a larger rate is always better."""
    sampler, found = Sampler(study), []
    for _ in range(sampler.trials):
        trial = sampler.ask()
        found.append(trial.parameters)
        trial.tell(trial.parameters[LR], pruned=False)
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_suggestions_depend_on_the_seed_alone_and_are_within_the_space(sampler: str) -> None:
    found = tried(plan(sampler))
    assert found == tried(plan(sampler)) != tried(plan(sampler, seed=1))
    assert all(0.001 <= one[LR] <= 1.0 and one[LR] == float(f"{one[LR]:.4g}") for one in found)
    assert all(isinstance(one[EPOCHS], int) and 1 <= one[EPOCHS] <= 9 for one in found)
    assert {one[BATCH] for one in found} == {16, 32}


def test_tpe_looks_at_what_came_before_and_random_does_not() -> None:
    random, tpe = (tried(plan(sampler)) for sampler in ("random", "tpe"))
    assert sum(one[LR] for one in tpe[10:]) > sum(one[LR] for one in random[10:])
