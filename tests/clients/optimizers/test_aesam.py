"""AE-SAM: the decision, what it costs, where in the training it is."""

import pytest
import torch
from torch.testing import assert_close

from clients.optimizers.aesam import AESAM
from clients.optimizers.base import State, Step, StepPlan, Task
from fedsam.config import ConfigError
from tests.support.objectives import at_origin
from tests.support.recording import RHO, START, Watched, hill, step, vector

ROUND = Task(round=3, rounds=10, steps=5)


def run(optimizer: AESAM, w: torch.Tensor, steps: int) -> tuple[torch.Tensor, State, list[int]]:
    watched, state, passes = Watched(hill()), optimizer.init(w, ROUND), []
    for _ in range(steps):
        before = watched.backward
        w, state, _ = step(optimizer, w, at_origin(), watched, state)
        passes.append(watched.backward - before)
    return w, state, passes


def test_the_first_gradient_is_as_long_as_its_mean_so_the_first_step_is_sam() -> None:
    w, state, passes = run(AESAM(lr=0.1, rho=RHO), START, 1)
    assert passes == [2]
    assert_close(w, START - 0.1 * vector(3.6, 4.4))
    assert_close((state["mu"], state["var"]), (vector(25.0), vector(0.0)))


def test_a_short_gradient_makes_a_plain_step_without_a_second_pass() -> None:
    w, state, passes = run(AESAM(lr=0.1, rho=RHO, delta=0.5), START, 2)
    w1 = vector(1.14, 3.56)
    g = vector(2.28, 3.56)
    assert passes == [2, 1]
    assert_close(w, w1 - 0.1 * g)
    mu = (25 + g @ g) / 2
    assert_close(state["mu"], mu.reshape(1))
    assert_close(state["var"], (0.5 * (g @ g - mu) ** 2).reshape(1))


def test_the_threshold_falls_over_the_whole_training() -> None:
    # c = 0.92 on the 1st of 50 steps and -2.68 on the 46th; the squared norm 0.2 is about half a deviation below its mean.
    optimizer, w = AESAM(lambda1=-3.0), vector(0.2, 0.2)
    statistics = {"mu": vector(0.25), "var": vector(0.01)}
    state = {**optimizer.init(w, Task(round=1, rounds=10, steps=5)), **statistics}
    assert_plan(optimizer, w, state, "plain")
    state = {**optimizer.init(w, Task(round=10, rounds=10, steps=5)), **statistics}
    assert_plan(optimizer, w, state, "sam")


def assert_plan(optimizer: AESAM, w: torch.Tensor, state: State, kind: str) -> None:
    _, state, _ = optimizer.advance(w, state, Step(hill(), at_origin(), StepPlan("probe")))
    assert optimizer.plan(state, None).kind == kind  # type: ignore[arg-type]


@pytest.mark.parametrize(("bound", "passes"), [(-1e9, [2, 2, 2]), (1e9, [1, 1, 1])])
def test_extreme_thresholds_are_sam_and_sgd(bound: float, passes: list[int]) -> None:
    assert run(AESAM(lambda1=bound, lambda2=bound, mu0=1.0, var0=1.0), START, 3)[2] == passes


def test_a_step_leaves_nothing_pending_in_the_state() -> None:
    _, state, _ = run(AESAM(), START, 2)
    assert set(state) == {"aesam_step", "aesam_total", "mu", "var"}


def test_the_place_in_the_training_comes_from_the_round() -> None:
    state = AESAM().init(START, ROUND)
    assert (state["aesam_step"], state["aesam_total"]) == (10, 50)
    kept = AESAM().resume({**state, "mu": 1.0, "aesam_step": 99}, START, ROUND)
    assert (kept["aesam_step"], kept["mu"]) == (10, 1.0)


def test_the_length_of_the_training_must_be_known() -> None:
    with pytest.raises(ConfigError, match="total_steps: must be given"):
        AESAM().init(START, Task())
