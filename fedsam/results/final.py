"""What a run came to: its final measures, the gap between training and test, and divergence, for results, progress, tables and lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedsam.results.rows import Row, Status

# These are averaged over the last evaluations; of any other measure the last value counts.
AVERAGED_MEASURES = (
    *("test_accuracy", "test_loss", "validation_accuracy", "validation_loss", "calibration_error", "client_accuracy", "client_loss"),
    *(f"client_accuracy_{name}" for name in ("mean", "std", "worst10")),
)
EXPLODED_LOSS = 1000.0  # nats; a model that guesses has the logarithm of the number of classes


def final_measures(rows: Sequence[Row], last: int) -> dict[str, float]:
    """Measures of a run at its end: those of `AVERAGED_MEASURES` as the mean over its last evaluations, and the gaps of its last model.

    The gaps are `gap` (accuracy on the clients' examples minus test accuracy) and `loss_gap` (test loss minus loss on the clients'
    examples). They compare one model, so they are taken with its own `last_test_accuracy` and `last_test_loss`, not with the means.

    Args:
        last: Number of evaluations, `measure.last`.
    """
    final: dict[str, float] = {}
    for row in rows:
        final |= {**row.measures, **_gaps(row.measures)}
    tail = [row.measures for row in rows if is_evaluated(row)][-last:] if last else []
    for name in AVERAGED_MEASURES:
        values = [measures[name] for measures in tail if name in measures]
        if values:
            final[name] = float(np.mean(values))
        else:
            final.pop(name, None)
    return final


def is_evaluated(row: Row) -> bool:
    """Whether the global vector was evaluated after this round, on the test set or on what is held out for validation."""
    return not row.measures.keys().isdisjoint(("test_accuracy", "validation_accuracy"))


def _gaps(measures: Mapping[str, float]) -> dict[str, float]:
    if not measures.keys() >= {"union_accuracy", "union_loss", "test_accuracy", "test_loss"}:
        return {}
    return {
        "last_test_accuracy": measures["test_accuracy"],
        "last_test_loss": measures["test_loss"],
        "gap": measures["union_accuracy"] - measures["test_accuracy"],
        "loss_gap": measures["test_loss"] - measures["union_loss"],
    }


def divergence(row: Row) -> str:
    """What says that a run has diverged in this round: a loss that is not finite or above `EXPLODED_LOSS`, or such parameters; or empty."""
    return _outside(row, lambda loss: loss <= EXPLODED_LOSS)


def nonfinite(row: Row) -> str:
    """What is not finite in this round, from which no run recovers: a loss of the global vector, or its parameters; or empty."""
    return _outside(row, math.isfinite)


def _outside(row: Row, is_sound: Callable[[float], bool]) -> str:
    losses = {"train loss": row.train_loss} if row.cohort else {}
    losses |= {
        name.replace("_", " "): row.measures[name] for name in ("test_loss", "validation_loss", "union_loss") if name in row.measures
    }
    bad = [f"{name} {loss:.3g}" for name, loss in losses.items() if not is_sound(loss)]
    lost = row.measures.get("nonfinite_parameters", 0)
    return ", ".join([f"{lost:.0f} parameters not finite"] if lost else bad)


def diverged_round(rows: Sequence[Row], status: Status = "finished") -> int | None:
    """The first round of a run that ended diverged since then; None where its last round is sound.

    Args:
        status: That of the run; one that is `diverged` with sound rounds was stopped by the updates of the round after them.
    """
    first = len(rows) + 1 if status == "diverged" else None
    for row in reversed(rows):
        if not divergence(row):
            break
        first = row.round
    return first
